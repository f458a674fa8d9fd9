"""Rows prompt by prompt: their values, the variance between their seeds, and the difference of two."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kdbench.harness import comparisons
from kdbench.harness.files.records import Estimate
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.seed_variance import SeedVariance, seed_variance, without_shared
from kdbench.harness.stats import Array
from kdbench.reports.columns import Entry, Point
from kdbench.reports.runs import prompt_scores

TESTED = ("difference", "low", "high", "p", "seeds_measured")


class Sample(NamedTuple):
    """The per-prompt values of one row in one metric, training seeds by prompts."""

    ids: tuple[str, ...]
    values_SP: Array
    seeds: tuple[object, ...] = ()
    """The training seeds."""

    def at(self, ids: Sequence[str]) -> Array:
        """The values of these prompts, in this order."""
        if tuple(ids) == self.ids:
            return self.values_SP
        place = {name: column for column, name in enumerate(self.ids)}
        return np.asarray(self.values_SP[:, [place[name] for name in ids]])


def row_sample(entries: Sequence[Entry], metric: str) -> Sample:
    """Per-prompt values of one row in one metric, over the prompts measured under all its seeds.

    Without any per-prompt value of the metric the sample is empty.
    """
    parts = [prompt_scores(evaluation) for evaluation in scored(entries, metric)]
    parts = [part for part in parts if metric in part.values]
    if not parts:
        return Sample((), np.zeros((1, 0)))
    measured = [
        {name for name, value in zip(part.ids, part.values[metric], strict=True) if value == value}
        for part in parts
    ]
    common = set.intersection(*measured)
    ids = tuple(name for name in parts[0].ids if name in common)
    values = [part.values[metric][[name in common for name in part.ids]] for part in parts]
    return Sample(ids, np.stack(values), tuple(_seeds(entries, metric)))


def scored(entries: Sequence[Entry], metric: str) -> list[Evaluation]:
    """Evaluations that have the metric, and scores of each prompt."""
    having = [e.evaluation for e in entries if isinstance(e.metrics.get(metric), Estimate)]
    return [evaluation for evaluation in having if evaluation.scores_file.is_file()]


def row_seeds(
    rows: Sequence[Sequence[Entry]], metric: str, ids: Sequence[str] | None = None
) -> SeedVariance:
    """The variance between training seeds of the rows of a column.

    Args:
        rows: the evaluations of each, one a training seed.
        metric: the column's.
        ids: prompts whose means these are; None: all, from what the summaries say.
    """
    known = [_having(row, metric) if ids is None else _over(row, metric, ids) for row in rows]
    means = [[mean for _, mean in row] for row in known]
    seeds = [[seed for seed, _ in row] for row in known]
    return seed_variance(means, [_trained(row) for row in rows], seeds)


def _having(row: Sequence[Entry], metric: str) -> list[tuple[object, float]]:
    """Training seed and mean of a row's evaluations that have the metric.

    One that says no seed shares its luck with nobody.
    """
    found: list[tuple[object, float]] = []
    for entry in row:
        value = entry.metrics.get(metric)
        if isinstance(value, Estimate | Point):
            found.append((_seed(entry), value.mean))
    return found


def _over(row: Sequence[Entry], metric: str, ids: Sequence[str]) -> list[tuple[object, float]]:
    """Training seed and mean over these prompts; a row with fewer than half of them says nothing."""
    sample = row_sample(row, metric)
    there = set(ids).intersection(sample.ids)
    if not there or 2 * len(there) < len(ids):
        return []
    means = sample.at([name for name in ids if name in there]).mean(axis=1)
    return list(zip(_seeds(row, metric), means.tolist(), strict=True))


def _seed(entry: Entry) -> object:
    seed = entry.run.summary.run.training_seed
    return entry.run.folder.path if seed is None else seed


def _seeds(row: Sequence[Entry], metric: str) -> list[object]:
    """The training seeds of `row_sample`'s values."""
    parts = scored(row, metric)
    return [
        _seed(e)
        for e in row
        if e.evaluation in parts and metric in prompt_scores(e.evaluation).values
    ]


def _trained(row: Sequence[Entry]) -> bool:
    """Whether another training could have made another model of it: also an init of several seeds."""
    return len(row) > 1 or any(entry.run.summary.run.kind == "run" for entry in row)


def row_difference(
    a: Sample, b: Sample, ids: Sequence[str], seeds: SeedVariance
) -> comparisons.Comparison | None:
    """Row a minus row b over these prompts, uncorrected; None: fewer than two are no comparison.

    Args:
        a: one row.
        b: the other.
        ids: prompts that both have.
        seeds: the variances between training seeds of these two.
    """
    if len(ids) < 2:
        return None
    return comparisons.compare_rows(a.at(ids), b.at(ids), seeds, [a.seeds, b.seeds])


def result_fields(result: comparisons.Comparison) -> dict[str, Any]:
    """What records tell of a comparison of two rows, by field."""
    return {name: getattr(result, name) for name in TESTED}


# -- all rows of a column on the same prompts ------------------------------------------------------


class Lineup(NamedTuple):
    """Rows of a column on the prompts that all of them answered."""

    places: list[int]
    """Of the rows in the list given, in its order."""
    errors: comparisons.Errors
    seed_means: list[Array]
    """Of each row the mean of each training seed, less what the seed does to all rows alike."""
    label: str
    """Names the prompts."""


def lineup(rows: Sequence[Sequence[Entry]], metric: str) -> Lineup | None:
    """Lines up the rows that share prompts; None: fewer than two do.

    The prompts are those of most rows. A row with fewer than half of them stays out, so that no
    half-finished evaluation takes the others' prompts away.

    Args:
        rows: the evaluations of each, the most important first; one without scores of each prompt stays
            out.
        metric: the column's.
    """
    samples = [row_sample(row, metric) for row in rows]
    counts = Counter(sample.ids for sample in samples if sample.ids)
    if not counts:
        return None
    majority = counts.most_common(1)[0][0]  # of equals, the first
    wanted = set(majority)
    places = [
        i for i, s in enumerate(samples) if 2 * len(wanted.intersection(s.ids)) >= len(wanted)
    ]
    common = wanted.intersection(*(samples[i].ids for i in places))
    ids = [name for name in majority if name in common]
    if len(places) < 2 or len(ids) < 2:
        return None
    values = [samples[i].at(ids) for i in places]
    labels = [samples[i].seeds for i in places]
    found = comparisons.errors(values, row_seeds(rows, metric).of(places), labels)
    means = [value.mean(axis=1) for value in values]
    if found.seeds.share_MS is not None:
        means = without_shared(means, labels)
    label = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    return Lineup(places, found, means, label)
