"""``kdbench conform``: reference numbers of other people's code, recomputed with ours.

A reference file is JSON in one of the known formats; each knows itself by its keys:

* token objectives: ``cases[].student_logits, teacher_logits, labels, expected{name: {loss, …}}``
* MiniLLM: ``cases[].new_logits, old_logits, teacher_logits, ids, mask, settings, expected{…}``
* exposure bias: ``cases[].student_contexts, teacher_contexts, expected{R, L_eps, …}``
* text metrics: ``rows[].prediction, references, rougeL, exact_match`` and ``expected_aggregate``
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import read_json

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


def recompute(path: Path) -> list[Value]:
    """Every entry of a reference file with our value.

    Raises:
        InputError: the file cannot be read or has none of the known formats.
    """
    data = read_json(path)
    for recognised, values in _formats(data):
        if recognised:
            try:
                return list(values(data))
            except (KeyError, TypeError, IndexError) as error:
                raise InputError(
                    f"{str(path)!r} looks like a reference file but lacks {error}; repair or replace it."
                ) from error
    raise InputError(
        f"{str(path)!r} has none of the known reference formats (token objectives, MiniLLM, text "
        "metrics, TAID schedule, exposure bias); see `kdbench conform --help`."
    )


def _formats(data: Any) -> list[tuple[bool, Callable[[Any], Iterator[Value]]]]:
    """Whether a file is of each known format, and who reads that."""
    from kdbench.harness.conform import exposure, objectives, schedules, text

    cases = data.get("cases") if isinstance(data, dict) else None
    first = cases[0] if isinstance(cases, list) and cases else ()
    return [
        ("student_logits" in first, objectives.token_objectives),
        ("new_logits" in first, objectives.minillm),
        (
            isinstance(data, dict) and {"rows", "expected_aggregate"} <= data.keys(),
            text.text_metrics,
        ),
        ("expected_t" in first, schedules.taid_schedule),
        ("student_contexts" in first, exposure.exposure_bias),
    ]


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
