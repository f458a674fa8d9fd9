"""Whether the runs of a row were trained and evaluated as their suite says."""

from collections.abc import Mapping
from typing import Any

from kdbench.harness.config import RunConfig
from kdbench.reports.load import FREE

REFERENCE = ("data", "teacher_sft")
"""Sections that decide a teacher, whichever method's configuration it was evaluated under."""
STUDENT = (*REFERENCE, "init_sft", "train", "method")


def training_changes(
    config: Mapping[str, Any], suite: RunConfig, options: Mapping[str, Any], *, trained: bool
) -> list[str]:
    """Where a stored configuration departs from its suite, as ``data.limit 100 instead of None``.

    A setting that the configuration does not have is newer than the run: it was not changed.

    Args:
        config: ``config.json`` of a run.
        suite: what its suite says.
        options: settings of the method that are expected to be others.
        trained: by a method; otherwise the model was evaluated only.
    """
    wanted = suite.model_dump(mode="json")
    wanted["method"]["options"] |= options
    sections = STUDENT if trained else REFERENCE
    expected = _flat({name: wanted[name] for name in sections})
    return [
        f"{key.replace('method.options.', 'method.')} {value} instead of {expected.get(key)}"
        for key, value in _flat({name: config[name] for name in sections if name in config}).items()
        if expected.get(key, ...) not in (value, "auto")
    ]


def decoding_changes(decoding: Mapping[str, Any], suite: RunConfig) -> list[str]:
    """Where an evaluation's decoding departs from its suite, as ``temperature 0.0``."""
    wanted = suite.generate.model_dump(mode="json")
    return [
        f"{name} {value}"
        for name, value in decoding.items()
        if wanted.get(name) not in (None, "auto", value)
    ]


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by dotted key."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        elif name not in FREE:
            found[f"{above}{name}"] = value
    return found
