"""Paired tests between the methods of one column, from per-prompt scores."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdbench.harness import stats
from kdbench.harness.errors import InputError
from kdbench.harness.files.store import write_json
from kdbench.harness.stats import Array

Indices = NDArray[np.int64]

MAX_ROWS = 50
"""Pairs are tested among at most this many rows of a column (the best ones)."""


class Sample(NamedTuple):
    """The per-prompt values of one row in one column."""

    ids: tuple[str, ...]
    values_SP: Array
    measured: bool
    """At least three training seeds, or a model that was not trained here."""


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
    keys: Sequence[str], load: Callable[[], Sequence[Sample]], cache: Path | None
) -> list[PairResult]:
    """``paired_tests`` of what ``load`` reads, remembered by content.

    Args:
        keys: one a sample, naming all that its values depend on (metric, file hashes), in order.
        load: reads the samples; not called when the result is known.
        cache: folder of results; None: do not remember.
    """
    if cache is None:
        return paired_tests(load())
    digest = hashlib.sha256("\n".join([stats.STATS_VERSION, *keys]).encode()).hexdigest()
    path = cache / f"{digest[:32]}.json"
    with contextlib.suppress(ValueError, TypeError, OSError):
        return [PairResult(*row) for row in json.loads(path.read_bytes())]
    results = paired_tests(load())
    with contextlib.suppress(InputError):  # a full or read-only cache costs time, no more
        write_json(path, [list(result) for result in results])
    return results


def paired_tests(samples: Sequence[Sample]) -> list[PairResult]:
    """All pairs that share at least two prompts, Holm-corrected over these pairs.

    Prompts are matched by id; a pair is compared on those both have.
    """
    raw = _all_pairs(samples)
    adjusted = stats.holm([pair.p for pair in raw])
    return [pair._replace(p_holm=round(float(p), 9)) for pair, p in zip(raw, adjusted, strict=True)]


def _all_pairs(samples: Sequence[Sample]) -> list[PairResult]:
    number = resamples_for(len(samples) * (len(samples) - 1) // 2)
    sets: dict[tuple[str, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        sets.setdefault(sample.ids, []).append(index)
    found = []
    for members in sets.values():
        found += _same_prompts([samples[i] for i in members], members, number)
    groups = list(sets.values())
    for position, left in enumerate(groups):
        for right in groups[position + 1 :]:
            for a in left:
                for b in right:
                    found += _shared_prompts(samples[a], samples[b], a, b, number)
    return sorted(
        pair if pair.a < pair.b else pair._replace(a=pair.b, b=pair.a, difference=-pair.difference)
        for pair in found
    )


def _shared_prompts(a: Sample, b: Sample, i: int, j: int, number: int) -> list[PairResult]:
    """A pair whose prompts are not all the same, on those that are."""
    common = sorted(set(a.ids) & set(b.ids))
    if len(common) < 2:
        return []
    ids = tuple(common)
    both = [side._replace(ids=ids, values_SP=aligned(side, ids)) for side in (a, b)]
    return _same_prompts(both, [i, j], number)


def aligned(sample: Sample, ids: Sequence[str]) -> Array:
    """The values of a sample (training seeds by prompts) for these prompts, in this order."""
    place = {name: column for column, name in enumerate(sample.ids)}
    return np.asarray(sample.values_SP[:, [place[name] for name in ids]])


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
    return [
        PairResult(
            index[int(a)],
            index[int(b)],
            round(float(d), 6),
            round(float(q), 9),
            1.0,
            prompts,
            bool(w),
        )
        for a, b, d, q, w in zip(first, second, difference, p, with_seeds, strict=True)
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
    between = np.array([part.between for part in parts])
    residual = np.array([part.residual for part in parts])
    square = np.array([part.between**2 / part.df if part.df else 0.0 for part in parts])
    error, df = stats.pooled_error(
        np.maximum(over_prompts, 0.0),
        between[first] + between[second],
        residual[first] + residual[second],
        square[first] + square[second],
        prompts,
    )
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
