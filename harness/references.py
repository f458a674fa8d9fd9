"""The models that a run is compared with: which there are, and where their evaluations are kept.

One owner, so that who evaluates them, who asks whether they are evaluated and who makes a table of them
mean the same rows, and never those of another comparison in the same folder.
"""

from collections.abc import Sequence
from pathlib import Path

from kdbench.harness.config import RunConfig
from kdbench.harness.endpoints import place_of
from kdbench.harness.evaluation.names import Asked
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.identity import identity, model_id

TRUTH = "truth"
TEACHER = "teacher"
UNTRAINED = "student-untrained"
INIT = "sft-init"
"""What tables call the student that methods start from."""


def reference_labels(config: RunConfig) -> list[str]:
    """The reference rows of a run: truth, teacher, student before training, SFT init; as far as it has them.

    There is nothing to see in the answers of random weights, and a teacher behind an endpoint answers no
    tasks here.
    """
    there = {
        TRUTH: config.tasks.edition != "full",
        TEACHER: place_of(config.pair.teacher) is None,
        UNTRAINED: not random_weights(config.pair.student),
        INIT: config.init_sft is not None,
    }
    return [label for label, needed in there.items() if needed]


def tasks_asked(label: str, tasks: Sequence[Asked]) -> list[Asked]:
    """Those of a comparison's tasks that a reference row is asked: the truth knows its own world's alone."""
    return [task for task in tasks if label != TRUTH or task.kind == "text"]


def random_weights(student: str) -> bool:
    """Whether a student before training is a configuration with random weights: a file, or our world's."""
    from kdbench.tasks import mini  # with numpy, which most callers that only list can do without

    return Path(student).suffix == ".json" or mini.world_model(student) is not None


def reference_id(model: str, suite: str) -> str:
    """Id of a model's evaluations in a suite; ``model`` is its `model_id`, or `TRUTH`."""
    return identity({"model": model, "suite": suite})[:12]


def reference_folder(runs_dir: Path, label: str, model: str, suite: str) -> RunFolder:
    """Where they are kept; it need not be there."""
    return RunFolder(runs_dir / f"eval-{label}-{reference_id(model, suite)}")


def references_of(run: RunFolder, config: RunConfig) -> dict[str, RunFolder]:
    """Where the reference rows of a trained run are, by label; they need not be there.

    Of what a run of another kdbench does not say of its models, nothing is told.

    Raises:
        InputError: what the run says cannot be read.
    """
    prepared, known = run.prepare.find(), run.identity.find()
    contents = known.parts.get("contents", {}) if known else {}
    models = {
        TRUTH: TRUTH,
        TEACHER: model_id(prepared.teacher) if prepared and prepared.teacher else None,
        UNTRAINED: contents.get("student"),
        INIT: model_id(prepared.init) if prepared and prepared.init else None,
    }
    return {
        label: reference_folder(run.path.parent, label, model, config.suite)
        for label in reference_labels(config)
        if (model := models[label])
    }
