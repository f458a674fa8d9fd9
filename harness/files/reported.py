"""What must be true of a summary of somebody else's before reports calculate with it."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator

LARGEST = 1e30
"""Of a number that was measured: reports square and multiply such numbers, and have to stay finite."""

PART = r"(?![.\s])[^/\\\x00-\x1f\x7f]+"
"""One part of a path, that leads nowhere else."""
LONGEST = 240
"""Bytes of such a part: file systems take 255, endings included."""


def path_part(given: str) -> str:
    """The name of a folder that something of a run is kept in, as it is.

    Raises:
        ValueError: it is not one part of a path, or too long for one.
    """
    if not re.fullmatch(PART, given) or len(given.encode()) > LONGEST:
        raise ValueError(f"{given[:60]!r} cannot be the name of a folder")
    return given


def of_judges(given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What judges said, by judge, as it is.

    Raises:
        ValueError: its evaluations, one of them or its metrics are no mapping, or a key is no `path_part`.
    """
    for judge, entry in given.items():
        evaluations = entry.get("evaluations", {})
        if not isinstance(evaluations, Mapping):
            raise ValueError(f"the evaluations of {judge} are no mapping")
        for key, found in evaluations.items():
            path_part(key)
            if not isinstance(found, Mapping) or not isinstance(found.get("metrics", {}), Mapping):
                raise ValueError(f"{key} of {judge} is no evaluation")
    return given


Key = Annotated[str, AfterValidator(path_part)]
"""Of an evaluation, ``<task>@<hash8>``: the name of its folder, and of figures."""
Probed = dict[Key, dict[str, dict[str, Any]]]
"""Reports of probes, by evaluation key and probe."""
Judged = Annotated[dict[str, dict[str, Any]], AfterValidator(of_judges)]
"""See `of_judges`."""


class Bounds(Protocol):
    """Whatever has bounds, or None where it has none."""

    low: float | None
    high: float | None


B = TypeVar("B", bound=Bounds)


def measurable(given: Any) -> Any:
    """Plain data as it is.

    Raises:
        ValueError: it holds a number that nobody can have measured.
    """
    there = [("", given)]
    while there:
        name, value = there.pop()
        match value:
            case Mapping():
                there += [(f"{name}.{key}".lstrip("."), part) for key, part in value.items()]
            case list():
                there += [(name, part) for part in value]
            case int() | float() if not abs(value) <= LARGEST:
                raise ValueError(f"{name} is not a number that can be measured")
    return given


def ordered(given: B) -> B:
    """What has bounds, as it is.

    Raises:
        ValueError: the lower one is not below the upper one.
    """
    if given.low is not None and given.high is not None and given.low >= given.high:
        raise ValueError(f"low {given.low:g} is not below high {given.high:g}")
    return given
