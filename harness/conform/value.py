"""One number of somebody else's code beside ours."""

from collections.abc import Iterator
from typing import Any, NamedTuple

RELATIVE = 1e-4
FLOOR = 0.01


class Value(NamedTuple):
    """One recomputed entry; ``ours`` None means we do not implement it.

    ``largest`` is the largest magnitude of the array the entry belongs to where that is more than
    ``expected`` shows: a printed gradient *row* belongs to the whole gradient. (In the reference
    files some rows have teacher = student; their gradient is zero and what is printed is float32
    rounding noise around 1e-8.)
    """

    name: str
    expected: list[float]
    ours: list[float] | None
    largest: float = 0.0

    @property
    def error(self) -> float:
        """Largest |ours − expected| in units of what is tolerated: above 1 is a failure.

        Tolerated is 1e-4 of the expected number, or of a hundredth of its array's largest magnitude.
        """
        if self.ours is None:
            return 0.0
        if len(self.ours) != len(self.expected):
            return float("inf")
        largest = max([self.largest, *(abs(x) for x in self.expected)])
        worst = 0.0
        for wanted, got in zip(self.expected, self.ours, strict=True):
            allowed = RELATIVE * max(abs(wanted), FLOOR * largest)
            gap = abs(got - wanted)
            if not gap <= 0.0:  # also true for nan
                worst = max(worst, gap / allowed if allowed and gap == gap else float("inf"))
        return worst

    @property
    def passed(self) -> bool:
        """Whether it is implemented and within tolerance."""
        return self.ours is not None and self.error <= 1.0


def compared(entry: str, expected: dict[str, Any], ours: dict[str, Any]) -> Iterator[Value]:
    """Every expected array beside ours, tensor or array; None where we have none."""
    for name, wanted in expected.items():
        value = ours.get(name)
        mine = None if value is None else flat(value.tolist())
        yield Value(f"{entry}.{name}", flat(wanted), mine)


def flat(value: Any) -> list[float]:
    """Nested lists of numbers as one list."""
    if isinstance(value, list):
        return [x for item in value for x in flat(item)]
    return [float(value)]
