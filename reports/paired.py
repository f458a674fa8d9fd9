"""Paired tests, prompt by prompt: between two rows, and among the methods of a column."""

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdbench.harness import stats
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Estimate, Missing, Record
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.files.store import write_json
from kdbench.harness.metrics import info
from kdbench.harness.stats import Array
from kdbench.reports.columns import Cell, Column, Entry, Found
from kdbench.reports.rows import GroupedRow
from kdbench.reports.runs import prompt_scores, scores_digest

Indices = NDArray[np.int64]

TESTED = ("difference", "low", "high", "p", "seeds_measured")
MAX_ROWS = 50
"""Pairs are tested among at most this many rows of a column (the best ones)."""


class Sample(NamedTuple):
    """The per-prompt values of one row in one metric, training seeds by prompts."""

    ids: tuple[str, ...]
    values_SP: Array
    measured: bool
    """At least three training seeds, or a model that was not trained here."""

    def at(self, ids: Sequence[str]) -> Array:
        """The values of these prompts, in this order."""
        place = {name: column for column, name in enumerate(self.ids)}
        return np.asarray(self.values_SP[:, [place[name] for name in ids]])


# -- two rows -------------------------------------------------------------------------------------


def row_sample(entries: Sequence[Entry], metric: str) -> Sample:
    """Per-prompt values of one row in one metric, over the prompts all its seeds answered.

    Without any per-prompt value of the metric the sample is empty.
    """
    parts = [prompt_scores(evaluation) for evaluation in _scored(entries, metric)]
    parts = [part for part in parts if metric in part.values]
    if not parts:
        return Sample((), np.zeros((1, 0)), False)
    common = set(parts[0].ids).intersection(*(part.ids for part in parts[1:]))
    ids = tuple(name for name in parts[0].ids if name in common)
    values = [part.values[metric][[name in common for name in part.ids]] for part in parts]
    return Sample(ids, np.stack(values), _measured(entries, len(parts)))


def row_difference(a: Sample, b: Sample, ids: Sequence[str]) -> stats.Comparison | None:
    """Row a minus row b over these prompts, uncorrected; None: fewer than two are no comparison."""
    if len(ids) < 2:
        return None
    return stats.compare_rows(a.at(ids), b.at(ids), seeds_measured=a.measured and b.measured)


def result_fields(result: stats.Comparison) -> dict[str, Any]:
    """What records tell of a comparison of two rows, by field."""
    return {name: getattr(result, name) for name in TESTED}


def _scored(entries: Sequence[Entry], metric: str) -> list[Evaluation]:
    """Evaluations that have the metric, and scores of each prompt."""
    having = [e.evaluation for e in entries if isinstance(e.metrics.get(metric), Estimate)]
    return [evaluation for evaluation in having if evaluation.scores_file.is_file()]


def _measured(entries: Sequence[Entry], seeds: int) -> bool:
    return entries[0].run.summary.run.kind != "run" or seeds >= stats.MIN_TRAINING_SEEDS


# -- a column -------------------------------------------------------------------------------------


class PairTest(Record):
    """Row ``a`` minus row ``b`` in one column, over the prompts both answered."""

    a: str
    b: str
    difference: float
    p: float
    p_holm: float
    n_prompts: int
    seeds_measured: bool


def column_tests(
    rows: Sequence[GroupedRow],
    found: Sequence[Found],
    cells: Sequence[Cell | Missing],
    column: Column,
    cache: Path | None,
) -> tuple[list[PairTest], list[str]]:
    """Paired tests among the methods of a column (the best `MAX_ROWS` of them).

    Reference rows take no part.

    Args:
        rows: of the table.
        found: their evaluations.
        cells: their cells of this column.
        column: the column.
        cache: folder of remembered tests; None: do not remember.

    Returns:
        The tests, and notes on what could not be tested.
    """
    sign = info(column.metric).better
    ranked = sorted(
        (-sign * cell.mean, position)
        for position, cell in enumerate(cells)
        if isinstance(cell, Cell) and not rows[position].row.reference
    )
    notes = []
    if len(ranked) > MAX_ROWS:
        notes.append(f"paired tests among the best {MAX_ROWS} methods of a column only")
    tested: dict[str, list[Entry]] = {}
    for position in sorted(position for _, position in ranked[:MAX_ROWS]):
        row, mine = rows[position].row, found[position][column.key]
        if all(entry.evaluation.scores_file.is_file() for entry in mine):
            tested[row.id] = mine
        else:
            notes.append(f"{column.heading}: {row.label} has no per-prompt scores, so no test")
    ids = list(tested)
    if len(ids) < 2:
        return [], notes
    results = remembered(list(tested.values()), column.metric, cache)
    if len(results) < math.comb(len(ids), 2):
        notes.append(f"{column.heading}: methods that share no prompts are not compared")
    named = [result._asdict() | {"a": ids[result.a], "b": ids[result.b]} for result in results]
    return [PairTest(**fields) for fields in named], notes


def with_bold(
    rows: Sequence[GroupedRow],
    cells: Sequence[Cell | Missing],
    better: int,
    tests: Sequence[PairTest],
) -> list[Cell | Missing]:
    """The cells of a column, bold where no row is significantly better, if any is worse.

    The best method and all that were compared with it and are not significantly worse.

    Args:
        rows: of the table.
        cells: their cells of the column.
        better: 1: higher values are better; -1: lower ones.
        tests: the column's.
    """
    tested = {row for test in tests for row in (test.a, test.b)}
    placed = [(grouped.row.id, cell) for grouped, cell in zip(rows, cells, strict=True)]
    means = {i: better * c.mean for i, c in placed if i in tested and isinstance(c, Cell)}
    best = max(means, key=lambda row: means[row], default="")  # of equals, the first
    versus = {t.b if t.a == best else t.a: t for t in tests if best in (t.a, t.b)}
    worse = {row for row, test in versus.items() if test.p_holm < 1 - stats.LEVEL}
    bold = {best, *versus} - worse if worse else set()
    return [cell.model_copy(update={"bold": True}) if i in bold else cell for i, cell in placed]


# -- all pairs at once ----------------------------------------------------------------------------


class PairResult(NamedTuple):
    """Sample ``a`` minus sample ``b``, by position in the list given."""

    a: int
    b: int
    difference: float
    p: float
    p_holm: float
    n_prompts: int
    seeds_measured: bool


def resamples_for(pairs: int) -> int:
    """Swaps enough that the smallest p-value stays significant after Holm over ``pairs``."""
    return max(stats.RESAMPLES, int(2 * pairs / (1 - stats.LEVEL)))


def remembered(
    rows: Sequence[Sequence[Entry]], metric: str, cache: Path | None
) -> list[PairResult]:
    """``paired_tests`` of rows in a metric, remembered by all that their samples depend on.

    Args:
        rows: the evaluations of each; files are not parsed when the result is known.
        metric: its name.
        cache: folder of results; None: do not remember.
    """
    path = None
    if cache is not None:
        digests = [[scores_digest(evaluation) for evaluation in _scored(r, metric)] for r in rows]
        keys = [
            " ".join([metric, str(_measured(row, len(mine))), *mine])
            for row, mine in zip(rows, digests, strict=True)
        ]
        digest = hashlib.sha256("\n".join([stats.STATS_VERSION, *keys]).encode()).hexdigest()
        path = cache / f"{digest[:32]}.json"
        with contextlib.suppress(ValueError, TypeError, OSError):
            return [PairResult(*row) for row in json.loads(path.read_bytes())]
    results = paired_tests([row_sample(row, metric) for row in rows])
    if path is not None:
        with contextlib.suppress(InputError):  # a full or read-only cache costs time, no more
            write_json(path, [list(result) for result in results])
    return results


def paired_tests(samples: Sequence[Sample]) -> list[PairResult]:
    """All pairs that share at least two prompts, Holm-corrected over these pairs.

    Prompts are matched by id; a pair is compared on those both have.
    """
    number = resamples_for(math.comb(len(samples), 2))
    sets: dict[tuple[str, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        sets.setdefault(sample.ids, []).append(index)
    found = []
    for members in sets.values():
        found += _same_prompts([samples[i] for i in members], members, number)
    for left, right in itertools.combinations(sets.values(), 2):
        ids = tuple(sorted(set(samples[left[0]].ids) & set(samples[right[0]].ids)))
        for pair in itertools.product(left, right):  # on the prompts that both have
            both = [samples[i]._replace(ids=ids, values_SP=samples[i].at(ids)) for i in pair]
            found += _same_prompts(both, pair, number)
    raw = sorted(
        pair if pair.a < pair.b else pair._replace(a=pair.b, b=pair.a, difference=-pair.difference)
        for pair in found
    )
    adjusted = stats.holm([pair.p for pair in raw])
    return [pair._replace(p_holm=round(float(p), 9)) for pair, p in zip(raw, adjusted, strict=True)]


def _same_prompts(samples: Sequence[Sample], index: Sequence[int], number: int) -> list[PairResult]:
    """All pairs of samples with the same prompts, vectorised over pairs."""
    prompts = len(samples[0].ids)
    if len(samples) < 2 or prompts < 2:
        return []
    parts = [stats.seed_components(sample.values_SP) for sample in samples]
    values_PK = np.stack([part.mean_P for part in parts], axis=1)
    measured = np.array([sample.measured for sample in samples])
    first, second = np.triu_indices(len(samples), k=1)
    difference = values_PK.mean(axis=0)[first] - values_PK.mean(axis=0)[second]
    with_seeds = measured[first] & measured[second]
    p = _t_p(parts, values_PK, first, second, difference)
    if not with_seeds.all():
        p[~with_seeds] = _swap_p(values_PK, first[~with_seeds], second[~with_seeds], number)
    columns = (column.tolist() for column in (first, second, difference, p, with_seeds))
    return [
        PairResult(index[a], index[b], round(d, 6), round(q, 9), 1.0, prompts, with_both)
        for a, b, d, q, with_both in zip(*columns, strict=True)
    ]


def _t_p(
    parts: Sequence[stats.SeedComponents],
    values_PK: Array,
    first: Indices,
    second: Indices,
    difference: Array,
) -> Array:
    """p-values with the spread between training seeds, as ``stats.compare_rows``."""
    prompts = len(values_PK)
    covariance = np.atleast_2d(np.cov(values_PK, rowvar=False)) / prompts
    variance = np.diag(covariance)
    over_prompts = variance[first] + variance[second] - 2 * covariance[first, second]
    of_seeds = np.array(
        [(p.between, p.residual, p.between**2 / p.df if p.df else 0.0) for p in parts]
    )
    between, residual, squares = (of_seeds[first] + of_seeds[second]).T
    prompt = np.maximum(over_prompts, 0.0)
    error, df = stats.pooled_error(prompt, between, residual, squares, prompts)
    tiny = error < 1e-9  # equal answers to every prompt: covariance cancels to rounding noise
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(tiny, 0.0, difference / error)
    p = stats.t_two_sided(statistic, df)
    return np.where(tiny, (np.abs(difference) < 1e-9).astype(float), p)


def _swap_p(values_PK: Array, first: Indices, second: Indices, number: int) -> Array:
    """Randomisation p-values of pairs of columns, as ``stats.randomisation_p``.

    Swapping labels is linear: flips @ (a - b) = flips @ a - flips @ b, so one product serves all
    pairs.
    """
    values_KP = np.ascontiguousarray(values_PK.T)
    sums = values_KP.sum(axis=1)
    observed = np.abs(sums[first] - sums[second]) - 1e-9

    def extreme(flips_RP: Array) -> Indices:
        flipped_KR = values_KP @ flips_RP.T
        swapped = np.empty(len(flips_RP))
        counts = np.empty(len(first), dtype=np.int64)
        for pair, (a, b) in enumerate(zip(first, second, strict=True)):
            np.subtract(flipped_KR[a], flipped_KR[b], out=swapped)
            np.abs(swapped, out=swapped)
            counts[pair] = np.count_nonzero(swapped >= observed[pair])
        return counts

    counts, drawn, exact = stats.count_extreme(len(values_PK), number, extreme)
    return counts / drawn if exact else (1 + counts) / (1 + drawn)
