"""What must be true of a summary of somebody else's before reports calculate with it."""

from collections.abc import Mapping
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator

LARGEST = 1e30
"""Of a number that was measured: reports square and multiply such numbers, and have to stay finite."""


def of_judges(given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What judges said, by judge, as it is.

    Raises:
        ValueError: its evaluations, one of them or its metrics are no mapping.
    """
    for judge, entry in given.items():
        evaluations = entry.get("evaluations", {})
        if not isinstance(evaluations, Mapping):
            raise ValueError(f"the evaluations of {judge} are no mapping")
        for key, found in evaluations.items():
            if not isinstance(found, Mapping) or not isinstance(found.get("metrics", {}), Mapping):
                raise ValueError(f"{key} of {judge} is no evaluation")
    return given


Probed = dict[str, dict[str, dict[str, Any]]]
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
