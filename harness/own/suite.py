"""Suite ``own`` as a tree, for `kdbench.harness.resolve`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdbench.harness.errors import InputError
from kdbench.harness.own.settings import own_settings, own_tree

if TYPE_CHECKING:
    from kdbench.harness.data.examples import Example

WORLDS = ("mini", "mini-2", "mini-test")
"""What models and data of the generated world are called before a colon, and suites of it."""


def measured_tree(above: Mapping[str, Any]) -> dict[str, Any]:
    """What suite ``own`` says of the models and data that the command line names.

    Args:
        above: the layer of ``--set`` and flags.

    Raises:
        InputError: it names no pair or no data, or one of them cannot be read.
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
    from kdbench.harness.data.understood import first_rows
    from kdbench.harness.own.facts import measure

    examples = first_rows(training_rows(data), data.get("limit"))
    facts = measure(str(pair["teacher"]), str(pair["student"]), examples, device=device_kind())
    return own_tree(own_settings(facts, asked=above))


def training_rows(data: Mapping[str, Any]) -> "list[Example]":
    """The training rows that a ``data`` section names.

    Raises:
        InputError: nothing there, or not understood.
    """
    from kdbench.harness.data.parts import columns_given
    from kdbench.harness.data.sources import load_split, split_names
    from kdbench.harness.data.understood import Reading, understand

    name = str(data["train"])
    if name in WORLDS:
        raise InputError(f"data {name} is the generated world's; its suite is --suite mini")
    if split_names(name):
        return load_split(name, "train")
    told: dict[str, Any] = {"turns": "every"} | {
        key: data[key] for key in ("turns", "unique") if key in data
    }
    found = understand(
        name, "train", Reading(columns=columns_given(data.get("columns") or {}), **told)
    )
    return found.examples if found else []


def device_kind() -> str:
    """Cpu or cuda: where trainings of this machine run unless told otherwise."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
