"""A run as its report sees it: how far it is, and the runs beside it that belong with it."""

from collections.abc import Sequence
from typing import NamedTuple

from kdbench.harness.config import file_task
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import PrepareRecord, RunCard, Summary
from kdbench.harness.files.run_folder import Config, RunFolder
from kdbench.reports.run.parts import model_name
from kdbench.reports.runs import Run


class Stage(NamedTuple):
    """One stage of a run; ``missing`` says what is not there, and is empty when it is done."""

    name: str
    missing: str


class Subject(NamedTuple):
    """A run, finished or not."""

    run: Run
    """Its summary as stored; of a run without one yet, what its configuration says."""
    stages: list[Stage]
    references: dict[str, Run]
    """Teacher, init and truth as evaluated beside this run, by the label of their row."""
    rivals: list[Run]
    """Trained runs of the same suite and pair beside this one, itself included, by folder."""

    @property
    def missing(self) -> list[Stage]:
        """Stages that are not done."""
        return [stage for stage in self.stages if stage.missing]


def read_subject(folder: RunFolder) -> Subject:
    """A run folder as read.

    Raises:
        InputError: no run folder, or a file of it cannot be read.
    """
    if not folder.config.exists():
        raise InputError(f"{folder.path} is no run folder (no configuration); see: kdbench ls runs")
    config, prepare, made = folder.config.read(), folder.prepare.find(), folder.summary.find()
    try:
        summary = made or _unfinished(folder, config, prepare)
        stages = _stages(folder, config, summary)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder.config.path} is no run's; the file was changed") from error
    run = Run(folder, summary)
    beside = _beside(folder) if folder.summary.exists() else []
    return Subject(run, stages, _references(run, prepare, beside), _rivals(run, beside))


def _unfinished(folder: RunFolder, config: Config, prepare: PrepareRecord | None) -> Summary:
    tree = config.tree()
    trained = prepare is not None or folder.training.path.is_dir()
    card = RunCard(
        id=folder.id,
        kind="run" if trained or not folder.name.startswith("eval-") else "eval",
        method=tree["method"]["name"],
        suite=tree["suite"],
        regime=tree["regime"],
        teacher=prepare.teacher if prepare else None,
        student=None,
        training_seed=tree["train"]["seed"],
        division="closed" if tree["regime"] == "matched" else "open",
    )
    return Summary(run=card)


def _stages(folder: RunFolder, config: Config, summary: Summary) -> list[Stage]:
    asked = config.tree()["tasks"]
    found = []
    if summary.run.kind == "run":
        found.append(Stage("prepare", "" if folder.prepare.exists() else "not begun"))
        steps = len(folder.training.log())
        begun = f"not finished ({steps} steps logged)" if steps else "not begun"
        found.append(Stage("train", "" if folder.training.stage.marked() else begun))
    evaluations = folder.evaluations()
    names = [file[0] if (file := file_task(name)) else name for name in asked["names"]]
    for task in dict.fromkeys([*names, *(each.task for each in evaluations)]):
        mine = [each for each in evaluations if each.task == task]
        undone = [each.key for each in mine if not each.scored.marked()]
        missing = f"{undone[0]} is not finished" if undone else ""
        found.append(Stage(f"evaluate {task}", missing if mine else "not begun"))
    # the truth is no model: most probes have nothing to measure there
    truth = summary.run.kind == "eval" and summary.run.student is None
    for probe in () if truth else asked.get("probes", ()):
        done = any(each.probe(probe).marked() for each in evaluations)
        found.append(Stage(f"probe {probe}", "" if done else "not measured"))
    found.append(
        Stage("summarise", "" if folder.summary.exists() else f"no {folder.summary.path.name} yet")
    )
    return found


def _beside(folder: RunFolder) -> list[Run]:
    """Finished runs in the same folder of runs; one that cannot be read is not ours to report."""
    found = []
    for other in folder.beside():
        try:
            if other.summary.exists():
                found.append(Run(other, other.summary.read()))
        except InputError:
            continue
    return found


def _references(run: Run, prepare: PrepareRecord | None, beside: Sequence[Run]) -> dict[str, Run]:
    """Evaluated models that are this run's teacher or init by content, and the world's truth."""
    mine = run.summary.run
    models = (mine.teacher, prepare.init if prepare else None)
    wanted = {model.fingerprint for model in models if model}
    found: dict[str, Run] = {}
    for other in beside:
        card = other.summary.run
        fits = card.student.fingerprint in wanted if card.student else card.method == "truth"
        if card.kind == "eval" and card.suite == mine.suite and card.method != mine.method and fits:
            found.setdefault(card.method, other)
    order = {"truth": 2, "teacher": 0}
    kept = sorted(found, key=lambda label: (order.get(label, 1), label))
    return {label: found[label] for label in kept}


def _rivals(run: Run, beside: Sequence[Run]) -> list[Run]:
    def pair(card: RunCard) -> tuple[str, ...]:
        teacher = card.teacher.fingerprint if card.teacher else ""
        return card.kind, card.suite, teacher, model_name(card.student.name) if card.student else ""

    mine = run.summary.run
    if mine.kind != "run":
        return []
    others = [other for other in beside if pair(other.summary.run) == pair(mine)]
    return sorted([run, *others], key=lambda each: each.folder.name)
