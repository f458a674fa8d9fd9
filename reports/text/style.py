"""How numbers, differences, p-values and foreign characters are written, whatever the format."""

import importlib.metadata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.text.document import Cell, Note, Piece, Small, Strong

PAIRED_T = "paired t over prompts and training seeds"


class Bounded(Protocol):
    """Whatever has an interval, or None where none was measured."""

    @property
    def low(self) -> float | None:
        """Its lower end."""

    @property
    def high(self) -> float | None:
        """Its upper end."""


class Measured(Bounded, Protocol):
    """A mean with its interval."""

    @property
    def mean(self) -> float:
        """The mean."""


class Difference(Bounded, Protocol):
    """A difference with its interval."""

    @property
    def difference(self) -> float:
        """First minus second."""


def fixed(value: float, digits: int) -> str:
    """A value with so many digits; no negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def number(value: float, metric: str) -> str:
    """A value with the metric's digits."""
    return fixed(value, info(metric).digits)


def development_label(metric: str) -> str:
    """What a score on the development set is called, by its name in the log of a training."""
    return f"dev {info(metric.removeprefix('dev_')).label}"


def signed(value: float, metric: str) -> str:
    """A difference with its sign, a real minus."""
    text = number(value, metric)
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def interval(bounds: Bounded, metric: str, written: Callable[[float, str], str] = number) -> str:
    """``[low, high]``; nothing where no interval was measured."""
    if bounds.low is None or bounds.high is None:
        return ""
    return f"[{written(bounds.low, metric)}, {written(bounds.high, metric)}]"


def p_value(p: float) -> str:
    """A p-value; below a table's head, or behind ``p``."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def value_cell(
    value: Measured | Missing, metric: str, *, bold: bool = False, note: str = ""
) -> Cell:
    """A mean with its interval and a footnote; a dash with the reason as its footnote."""
    if isinstance(value, Missing):
        return ("–", Note(value.missing))
    cell = _with_interval(number(value.mean, metric), interval(value, metric), bold)
    return (*cell, Note(note)) if note else cell


def difference_cell(value: Difference, metric: str, *, bold: bool = False) -> Cell:
    """A difference with its interval, all with signs."""
    return _with_interval(signed(value.difference, metric), interval(value, metric, signed), bold)


def _with_interval(shown: str, bounds: str, bold: bool) -> tuple[Piece, ...]:
    return (Strong(shown, "*") if bold else shown, *([Small(bounds)] if bounds else []))


class Footnotes:
    """Letters for the reasons of empty and partial cells, in order of appearance."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def index(self, reason: str) -> int:
        """The place of a reason; equal reasons share one."""
        self.mark(reason)
        return list(self.letters).index(reason)

    def mark(self, reason: str) -> str:
        """The letter of a reason; equal reasons share one."""
        first, second = divmod(len(self.letters), 26)
        return self.letters.setdefault(reason, chr(96 + first) * bool(first) + chr(97 + second))

    def explained(self) -> list[str]:
        """A line for each letter; those that follow begin anew."""
        lines = [f"{letter}: {reason}" for reason, letter in self.letters.items()]
        self.letters = {}
        return lines


# -- signatures: how the numbers of a table came about ---------------------------------------------


def signature(
    about: Mapping[str, str],
    *,
    training: Collection[int],
    decoding: Iterable[Sequence[int]],
    prompts: Iterable[tuple[str, int]],
    how: Mapping[str, str],
) -> str:
    """One line that says how the numbers of a table came about.

    Args:
        about: suite or edition, and protocol.
        training: how many training seeds the rows have.
        decoding: the decoding seeds of each value; none where nothing is drawn.
        prompts: column, and number of prompts, of each value.
        how: intervals, tests and corrections.
    """
    from kdbench.harness import stats  # numpy and scipy, only where numbers were computed

    trained = ",".join(map(str, sorted(set(training))))
    if training and min(training) < stats.MIN_TRAINING_SEEDS:
        trained += f" (below {stats.MIN_TRAINING_SEEDS}: training variance unmeasured)"
    seeds = sorted({",".join(map(str, drawn)) for drawn in decoding if drawn})
    counts: dict[str, set[int]] = {}
    for column, number in prompts:
        counts.setdefault(column, set()).add(number)
    said = [f"{column}={'/'.join(map(str, sorted(found)))}" for column, found in counts.items()]
    return joined(
        {
            "kdbench": version(),
            **about,
            "training seeds": trained,
            "decoding seeds": " and ".join(seeds),
            "prompts": ",".join(said),
            **how,
            "rng": f"PCG64, sha256 labels, stats v{stats.STATS_VERSION}",
        }
    )


def joined(fields: Mapping[str, str]) -> str:
    """The fields of a signature as its one line; what is empty is none."""
    return " | ".join(f"{name}: {value or 'none'}" for name, value in fields.items())


def interval_text(numbers: Collection[int]) -> str:
    """What an interval of rows with so many training seeds is."""
    from kdbench.harness import stats

    interval = f"95% expanded percentile bootstrap over prompts, {stats.RESAMPLES} resamples"
    with_seeds = max(numbers, default=0) >= stats.MIN_TRAINING_SEEDS
    pooled = "t over seed means, their variance pooled over methods where alike, else moderated"
    return f"{interval}, {pooled}" if with_seeds else interval


def tests_text(kinds: Collection[bool]) -> str:
    """Which tests of two rows were made; of each, whether training seeds were measured."""
    from kdbench.harness import stats

    over_prompts = (
        f"paired bootstrap interval and randomisation p over prompts ({stats.RESAMPLES} resamples)"
    )
    made = {False: over_prompts, True: PAIRED_T}
    return " and ".join(made[kind] for kind in sorted(set(kinds)))


def version() -> str:
    """The installed version of kdbench."""
    try:
        return importlib.metadata.version("kdbench")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
