"""Suite ``own`` as a tree, for `kdbench.harness.resolve`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.harness.errors import InputError
from kdbench.harness.own.settings import own_settings, own_tree

if TYPE_CHECKING:
    from kdbench.harness.config import DataConfig
    from kdbench.harness.data.examples import Example

WORLDS = ("mini", "mini-2", "mini-test")
"""What models and data of the generated world are called before a colon, and suites of it."""


def measured_tree(above: Mapping[str, Any], data_dir: Path | None = None) -> dict[str, Any]:
    """What suite ``own`` says of the models and data that the command line names.

    Args:
        above: the layer of ``--set`` and flags.
        data_dir: folder of real data sets.

    Raises:
        InputError: it names no pair or no data, one of them cannot be read, or a value does not fit.
    """
    pair, data = above.get("pair") or {}, above.get("data") or {}
    lacking = [
        option
        for option, given in (
            ("--teacher (or --set pair.teacher=MODEL)", pair.get("teacher")),
            ("--student (or --set pair.student=MODEL)", pair.get("student")),
            ("--set data.train=FILE", data.get("train")),
        )
        if not given
    ]
    if lacking:
        raise InputError(
            "suite own is for models and data of your own, and chooses its settings by them; add "
            + " and ".join(lacking)
        )
    from kdbench.harness.config import DataConfig, PairConfig, TasksConfig, file_task
    from kdbench.harness.data.understood import first_rows
    from kdbench.harness.files.store import validated
    from kdbench.harness.own.facts import Written, measure
    from kdbench.harness.own.tasks import read_task

    rows = validated(DataConfig, data, "--set data", "configuration")
    models = validated(PairConfig, pair, "--set pair", "configuration")
    said = {"names": (), **(above.get("tasks") or {})}
    tasks = validated(TasksConfig, said, "--set tasks", "configuration")
    examples = first_rows(training_rows(rows, data_dir), rows.limit)
    places = [found[1] for name in tasks.names if (found := file_task(name))]
    tests = [row for each in places for row in read_task(each, tasks, rows).examples[: tasks.limit]]
    facts = measure(
        models.teacher,
        models.student,
        examples,
        tests=tests,
        asked=Written(rows, pair.get("template"), tasks.template),
        device=device_kind(),
    )
    return own_tree(own_settings(facts, asked=above))


def training_rows(data: "DataConfig", data_dir: Path | None = None) -> "list[Example]":
    """The training rows that a ``data`` section names.

    Raises:
        InputError: nothing there, or not understood.
    """
    from kdbench.harness.data.sources import load_split, split_names
    from kdbench.harness.data.understood import understand

    name = data.train
    if name in WORLDS:
        raise InputError(f"data {name} is the generated world's; its suite is --suite mini")
    if split_names(name):
        return load_split(name, "train", data_dir)
    found = understand(name, "train", data.reading())
    return found.examples if found else []


def device_kind() -> str:
    """Cpu or cuda: where trainings of this machine run unless told otherwise."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
