"""What a board says first: how far each method comes from SFT to its teacher, its rank, and its chances.

All numbers are functions of the same draws of what the true means may be (`kdbench.harness.comparisons`),
so each has an interval that knows the prompts and the training seeds. One column a task counts, its
first main score.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.stats import rankdata

from kdbench.harness import comparisons, stats
from kdbench.harness.files.records import Missing, Record
from kdbench.harness.metrics import info
from kdbench.harness.stats import Array
from kdbench.reports.agreement import Agreement
from kdbench.reports.column_tests import Measured
from kdbench.reports.columns import Column, directed
from kdbench.reports.costs import Spent, completed, fronts
from kdbench.reports.letters import letters


class Number(Record):
    """A number made of several rows, with its 95% interval."""

    mean: float
    low: float
    high: float


class Place(Record):
    """Where a method stands."""

    row: str
    label: str
    alike: str
    """Letters, a character each; exactly those that share one cannot be told apart by their mean score over
    the columns."""
    gap: Number | Missing
    """Percent of the way from SFT to the teacher, over all columns together: what a column with hardly
    a gap says counts hardly."""
    rank: Number
    """Mean rank over the columns, 1 is best."""
    beats: Number | Missing
    """Percent: how likely one training of the method makes a better student than one of SFT, each under a
    seed of its own."""
    gaps: list[Number | Missing] = []
    """The share of the gap in each column."""
    cost: dict[str, float] = {}
    """Of one training: tokens by kind, and seconds; see `kdbench.reports.costs.Spent`."""
    front: list[str] = []
    """Costs for which no method is at once better and cheaper."""


class Headline(Record):
    """Where the methods of a table stand, the best mean score over the columns first."""

    title: str
    """Empty for one pair of models; else over which it is."""
    columns: list[str]
    baseline: str
    """Label of the row that is called SFT here."""
    places: list[Place]
    left_out: list[str] = []
    """Methods that are not in all columns."""
    few: list[str] = []
    """Columns that do not count: less than two thirds of the methods are in them with all their students."""
    unmeasured: list[str] = []
    """Columns in which the training seeds of a method are not measured: intervals and letters are there
    about these students only."""
    time_ratio: float = 1.0
    """How much longer the slowest training of a method took than its quickest, at most."""
    agreement: list[Agreement] = []
    """Whether two sides rank methods alike: pairs of models, settings by default and tuned."""


class Field(NamedTuple):
    """One column of a headline: its draws, by label of its rows."""

    heading: str
    better: int
    scale: float
    """Percent of its range that one unit of the metric is."""
    draws: comparisons.Column
    at: dict[str, int]
    """Label of a row -> its place in the draws; methods and references."""
    baseline: str
    teacher: str
    """Labels; empty: there is none."""


class _Seen(NamedTuple):
    """The methods of one field, higher being better."""

    observed: Array
    drawn_RM: Array
    base: NDArray[np.float64] | None
    """Draws of the baseline, its observed mean first; likewise the teacher's."""
    teacher: NDArray[np.float64] | None
    variance_RM: Array
    """Variance of one training's score plus that of one of the baseline's, under another seed."""
    known_M: NDArray[np.bool_]
    """Whether both were measured."""


def main_columns(columns: Sequence[Column]) -> list[int]:
    """The first main score of each evaluation, by index."""
    seen: dict[object, int] = {}
    for index, column in enumerate(columns):
        if directed(column) and info(column.metric).headline:
            seen.setdefault(column.key, index)
    return list(seen.values())


def scale_of(metric: str) -> float | None:
    """Percent of its range that one unit of a metric is; None: its bounds are not known."""
    known = info(metric)
    span = known.high - known.low
    return 100 / span if math.isfinite(span) else None


def field(column: Column, found: Measured, labels: Mapping[str, str], teacher: str) -> Field:
    """A tested column as part of a headline.

    Args:
        column: the column, of a metric whose scale is known.
        found: its tests.
        labels: of the table's rows by id.
        teacher: the teacher's row, or nothing.
    """
    scale = scale_of(column.metric)
    assert scale is not None
    at = {labels[row]: place for place, row in enumerate(found.ids)}
    guide = labels.get(teacher, "")
    return Field(
        heading=column.heading,
        better=info(column.metric).better,
        scale=scale,
        draws=found.draws,
        at=at,
        baseline=labels.get(found.tests.baseline, ""),
        teacher=guide if guide in at else "",
    )


def headline(
    fields: Sequence[Field],
    methods: Mapping[str, str],
    costs: Mapping[str, Spent],
    title: str = "",
) -> Headline | None:
    """Where the methods stand that are in all fields; None: fewer than two are.

    Args:
        fields: the columns.
        methods: ids of the methods by label.
        costs: what their training cost, by label.
        title: see `Headline`.
    """
    labels = [name for name in methods if fields and all(name in each.at for each in fields)]
    if len(labels) < 2:
        return None
    seen = [_seen(each, labels) for each in fields]
    ranks = _numbers_of_ranks(seen)
    gaps = [_gap([each]) for each in seen]
    beats = [_beats(each) for each in seen]
    score, drawn_RM = scores_of(fields, labels)
    order = np.argsort(-score, kind="stable")
    shared = letters(comparisons.alike(score, drawn_RM), order.tolist())
    whole_gap = _gap(seen)
    known = [chance for chance in beats if chance is not None]
    mean_beats = _mean(known) if len(known) == len(beats) else None
    bases = {each.baseline for each in fields}
    places = [
        Place(
            row=methods[label],
            label=label,
            alike=shared[i],
            rank=_number(ranks, i),
            gap=_share(whole_gap, i, _why(fields)),
            beats=_share(None if label in bases else mean_beats, i, _no_chance(fields, label)),
            gaps=[_share(gap, i, "no teacher that is ahead of SFT") for gap in gaps],
            cost=dict(costs[label].cost) if label in costs else {},
        )
        for i, label in enumerate(labels)
    ]
    ratio = max((costs[label].ratio for label in labels if label in costs), default=1.0)
    return Headline(
        title=title,
        columns=[each.heading for each in fields],
        baseline=", ".join(sorted(filter(None, bases))),
        places=_with_fronts([places[i] for i in order], ratio),
        left_out=[name for name in methods if name not in labels],
        time_ratio=ratio,
        unmeasured=[e.heading for e, s in zip(fields, seen, strict=True) if not s.known_M.all()],
    )


def scores_of(fields: Sequence[Field], labels: Sequence[str]) -> tuple[Array, Array]:
    """Mean score of rows over columns that all are in (M,), higher is better, and its draws (R, M)."""
    seen = [_seen(each, labels) for each in fields]
    score = np.mean([each.observed for each in seen], axis=0)
    return np.asarray(score), np.mean([each.drawn_RM for each in seen], axis=0)


_Drawn = tuple[Array, Array]
"""A number of each row (M,), and its draws (R, M)."""


def _seen(found: Field, labels: Sequence[str]) -> _Seen:
    draws, sign = found.draws, found.better * found.scale
    true_RM = sign * (draws.mean_M + draws.deviations_RM)
    mean_M = sign * draws.mean_M

    def of(label: str) -> Array | None:
        place = found.at.get(label)
        return None if place is None else np.concatenate([[mean_M[place]], true_RM[:, place]])

    places = [found.at[label] for label in labels]
    base = found.at.get(found.baseline)
    variance, known_M = draws.seed_RM[:, places] * sign**2, draws.measured_M[places]
    if base is not None:
        variance = variance + draws.seed_RM[:, [base]] * sign**2
        known_M = known_M & draws.measured_M[base]
    own = mean_M[places], true_RM[:, places]
    return _Seen(*own, of(found.baseline), of(found.teacher), variance, known_M)


def _numbers_of_ranks(seen: Sequence[_Seen]) -> _Drawn:
    observed = np.mean([rankdata(-each.observed) for each in seen], axis=0)
    drawn = np.mean([rankdata(-each.drawn_RM, axis=1) for each in seen], axis=0)
    return np.asarray(observed), np.asarray(drawn)


def _gap(seen: Sequence[_Seen]) -> _Drawn | None:
    """Percent of the gap that each method closes over these columns.

    None where a row is missing, or the teacher is not clearly ahead of SFT.
    """
    ends = [(e.base, e.teacher) for e in seen if e.base is not None and e.teacher is not None]
    if len(ends) < len(seen):
        return None
    whole = sum((teacher - base for base, teacher in ends), np.zeros(1))
    if np.quantile(whole[1:], (1 - stats.LEVEL) / 2) <= 0:
        return None
    pairs = [(each, base) for each, (base, _) in zip(seen, ends, strict=True)]
    observed = sum((each.observed - base[0] for each, base in pairs), np.zeros(1))
    drawn = sum((each.drawn_RM - base[1:, None] for each, base in pairs), np.zeros(1))
    return 100 * observed / whole[0], 100 * drawn / whole[1:, None]


def _beats(seen: _Seen) -> _Drawn | None:
    """Percent: chance that one training scores above one of the baseline, on these prompts.

    NaN for methods whose training seeds, or the baseline's, are not measured.
    """
    if seen.base is None or not seen.variance_RM.any():
        return None
    spread_RM = np.sqrt(np.maximum(seen.variance_RM, 1e-12))
    middle = np.median(spread_RM, axis=0)
    observed = 100 * special.ndtr((seen.observed - seen.base[0]) / middle)
    observed = np.where(seen.known_M, observed, np.nan)
    drawn = 100 * special.ndtr((seen.drawn_RM - seen.base[1:, None]) / spread_RM)
    return np.asarray(observed), np.asarray(drawn)


def _mean(found: Sequence[_Drawn]) -> _Drawn | None:
    if not found:
        return None
    observed, drawn = zip(*found, strict=True)
    return np.mean(observed, axis=0), np.mean(drawn, axis=0)


def _number(found: _Drawn, i: int) -> Number:
    tail = (1 - stats.LEVEL) / 2
    low, high = np.quantile(found[1][:, i], [tail, 1 - tail])
    mean = float(found[0][i])
    ends = (min(float(low), mean), max(float(high), mean))
    return Number(mean=round(mean, 3), low=round(ends[0], 3), high=round(ends[1], 3))


def _share(found: _Drawn | None, i: int, reason: str) -> Number | Missing:
    there = found is not None and np.isfinite(found[0][i])
    return _number(found, i) if found is not None and there else Missing(missing=reason)


def _why(fields: Sequence[Field]) -> str:
    """Why no method has a share of the gap."""
    if not any(each.baseline for each in fields):
        return "no row of SFT"
    if not any(each.teacher for each in fields):
        return "no row of the teacher"
    return "the teacher is not clearly ahead of SFT"


def _no_chance(fields: Sequence[Field], label: str) -> str:
    """Why a method has no chance of beating SFT."""
    if any(each.baseline == label for each in fields):
        return "it is SFT"
    if not any(each.baseline for each in fields):
        return "no row of SFT"
    return "needs two training seeds in every column"


# -- what it cost ---------------------------------------------------------------------------------


def _with_fronts(places: Sequence[Place], ratio: float) -> list[Place]:
    """The places, each with the costs for which nothing is both better and cheaper."""
    costs = completed([place.cost for place in places])
    found = fronts([quality(place) for place in places], costs, ratio)
    return [
        place.model_copy(update={"cost": cost, "front": front})
        for place, cost, front in zip(places, costs, found, strict=True)
    ]


def weighed(found: Headline) -> Literal["gap", "rank"]:
    """Which field of its places `quality` is."""
    return "gap" if any(isinstance(place.gap, Number) for place in found.places) else "rank"


def quality(place: Place) -> float:
    """What costs are weighed against: the share of the gap, or the rank where there is none."""
    return place.gap.mean if isinstance(place.gap, Number) else -place.rank.mean
