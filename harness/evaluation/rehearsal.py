"""Every task's data and definition, looked at before anything is trained for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdbench.harness.config import RunConfig
from kdbench.harness.data.labelled import load_labelled
from kdbench.harness.data.sources import find_split
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.names import include_folders, tasks_of
from kdbench.harness.files.store import Say
from kdbench.harness.own.tasks import task_rows
from kdbench.harness.text_model import Likelihood
from kdbench.tasks.catalogue import TASKS
from kdbench.tasks.labels import LABEL_TASKS

REHEARSED = 2
"""Documents that a foreign task is tried with."""


def check_task_data(config: RunConfig, data_dir: Path | None, say: Say) -> None:
    """Finds every task's data, and runs foreign tasks on two documents without a model.

    A task of lm-eval's or of a third party loads data and runs code of its own: whatever is wrong
    there would otherwise come up after the training, as a traceback. ``say`` is told what was read of
    files, and what was dropped.

    Raises:
        InputError: no task, an unknown one, data out of reach, or a task that fails; one sentence.
    """
    if not config.tasks.names:
        raise InputError(
            f"no tasks given; name some by --tasks: {', '.join(TASKS)}, a file of rows, or any lm-eval task"
        )
    for task in tasks_of(config.tasks):
        if task.kind == "lm-eval":
            rehearse(task.name, config.tasks.include_path)
        elif task.kind == "file":
            for line in task_rows(task.place, config).lines:
                say(f"{task.name}: {line}")
        elif task.kind == "labels" and LABEL_TASKS[task.name].full:
            load_labelled(task.name.removesuffix("-cal"), data_dir)
        elif task.kind == "text" and config.tasks.edition == "full":
            find_split(task.name, "test", data_dir)


def rehearse(name: str, include_path: str | None) -> None:
    """Runs a foreign task from loading to its metrics on answers that say nothing.

    Raises:
        InputError: it cannot be loaded, or fails on the way.
    """
    from kdbench.harness.lm.likelihoods import evaluate_stock

    mute: Any = _Mute()
    try:
        found = evaluate_stock(
            mute, name, limit=REHEARSED, include_paths=include_folders(include_path)
        )
    except InputError:
        raise
    except Exception as error:  # code and data of somebody else: anything can come out of it
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(
            f"lm-eval task {name!r} fails on its first {REHEARSED} documents ({reason}); repair its "
            "file or its data"
        ) from error
    check_targets(found)


def check_targets(found: dict[str, Any]) -> None:
    """Refuses multiple-choice results whose right answer is none of the choices.

    lm-eval counts such a document as wrong and goes on.

    Args:
        found: `evaluate_stock`'s results.

    Raises:
        InputError: names the task and the document.
    """
    for task, samples in found["samples"].items():
        if found["configs"][task]["output_type"] != "multiple_choice":
            continue
        for sample in samples:
            texts = [str(arguments[1]) for arguments in sample["arguments"]]
            target = sample["target"]
            for each in target if isinstance(target, list) else [target]:
                inside = (
                    0 <= each < len(texts)
                    if isinstance(each, int)
                    else any(text.endswith(str(each)) for text in texts)
                )
                if not inside:
                    raise InputError(
                        f"task {task}, document {sample['doc_id']}: the right answer "
                        f"{str(each)[:60]!r} is none of its {len(texts)} choices; repair "
                        "doc_to_target or the data"
                    )


class _Mute:
    """In place of a `TextModel`: a token a character, no preference, empty answers."""

    end_id = 0
    max_length = 1 << 20

    class tokenizer:
        """What is asked of a tokenizer."""

        bos_token_id = 0
        name_or_path = "none"

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """As many tokens as characters."""
        return [1] * len(text)

    def likelihoods(self, pairs: Sequence[Any]) -> list[Likelihood]:
        """All alike."""
        return [Likelihood(-1.0, False) for _ in pairs]

    def complete(self, asked: Sequence[Any]) -> list[str]:
        """Nothing."""
        return ["" for _ in asked]
