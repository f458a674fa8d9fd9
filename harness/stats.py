"""Statistics of a board: intervals, paired tests, corrections. Pure numpy, fixed random numbers.

The unit is the prompt. Decoding seeds are averaged per prompt before anything here is called, so a
value array is ``values_P`` (one training seed) or ``values_SP`` (training seeds by prompts).

The model behind the intervals is ``y[s, p] = mean + a[s] + b[p] + e[s, p]``: training seed, prompt
and residual. One training seed tells nothing about ``a``; its interval is about that student only.

Random numbers: ``numpy.random.Generator(PCG64(seed))`` where the seed is the first 128 bits of
``sha256("kdbench-stats-<STATS_VERSION>:<label>")``. The label names the kind of resampling and the
number of prompts and nothing else, so equal inputs give equal bytes, and methods scored on the same
prompts are resampled with the same draws (common random numbers).

Axes: ``S`` training seeds, ``P`` prompts, ``K`` independent columns, ``R`` resamples.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

STATS_VERSION = "1"
RESAMPLES = 10_000
LEVEL = 0.95
"""Nominal coverage of every interval."""
POWER = 0.8
MIN_TRAINING_SEEDS = 2
"""Fewer training seeds than this say nothing about the spread between seeds."""

DECIMALS = 6
"""Bounds are rounded, so that the order of a machine's additions changes no byte of a board."""
_BLOCK = 4_000_000
"""Largest number of drawn values held at once; part of the definition of the random stream."""
_EXACT_PROMPTS = 12
"""Up to this many prompts all sign flips are enumerated instead of sampled."""


class Interval(NamedTuple):
    """A mean with the bounds of its interval; arrays when the input had several columns."""

    mean: float
    low: float
    high: float


def generator(label: str) -> np.random.Generator:
    """The fixed random generator of one kind of resampling (see the module docstring)."""
    digest = hashlib.sha256(f"kdbench-stats-{STATS_VERSION}:{label}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t; the normal one for infinite ``df``."""
    if math.isinf(df):
        return float(special.ndtri(probability))
    return float(special.stdtrit(df, probability))


def t_two_sided(statistic: ArrayLike, df: ArrayLike) -> Array:
    """Two-sided p-values of t statistics (normal where ``df`` is infinite)."""
    magnitude = np.abs(np.asarray(statistic, dtype=float))
    df = np.asarray(df, dtype=float)
    finite = np.where(np.isinf(df), 1e9, df)
    return np.asarray(2.0 * special.stdtr(finite, -magnitude), dtype=float)


def expanded_tail(n: int) -> float:
    """Tail probability at which the percentiles of ``n`` units are read.

    The plain percentile interval is short by sqrt((n-1)/n) and uses normal instead of t quantiles;
    reading it further out mends both. Source: Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69(4), 2015, section 5.3 (expanded percentile interval).
    """
    t = t_quantile(0.5 + LEVEL / 2, n - 1)
    return float(special.ndtr(-math.sqrt(n / (n - 1)) * t))


def _check(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError("statistics need at least one value and finite values only")
    return array


def drawn_counts(n: int, resamples: int, label: str) -> Iterator[Array]:
    """Blocks of multinomial counts: how often each of ``n`` units is drawn in each resample."""
    rng = generator(label)
    step = max(1, min(resamples, _BLOCK // n))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = rng.integers(0, n, size=(rows, n))
        draws += np.arange(rows)[:, None] * n
        counts = np.bincount(draws.ravel(), minlength=rows * n)
        yield counts.reshape(rows, n).astype(float)


def resampled_means(values: ArrayLike, *, resamples: int = RESAMPLES, label: str = "") -> Array:
    """Means of bootstrap resamples over the first axis: (P,) -> (R,), (P, K) -> (R, K).

    All columns share the same draws; another ``label`` has others.
    """
    values_PK = _check(values)
    n = len(values_PK)
    kind = ":".join(filter(None, ["prompts", str(n), label]))
    return np.concatenate([c @ values_PK / n for c in drawn_counts(n, resamples, kind)])


def percentiles(means_R: Array, n: int) -> tuple[Array, Array]:
    """Expanded percentile bounds of resampled means of ``n`` units, along the first axis."""
    tail = expanded_tail(n)
    low, high = np.quantile(means_R, [tail, 1 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def bootstrap_aggregate(
    values_P: ArrayLike, aggregate: Callable[[list[float]], float], *, resamples: int = 1_000
) -> Interval:
    """A number of all prompts that is no mean, with its interval; fewer resamples, since it is called."""
    values = _check(values_P)
    point, n = float(aggregate(values.tolist())), len(values)
    if n < 2:
        return Interval(point, point, point)
    drawn_R = [
        aggregate(np.repeat(values, counts_P.astype(int)).tolist())
        for counts_RP in drawn_counts(n, resamples, f"prompts:{n}")
        for counts_P in counts_RP
    ]
    low, high = percentiles(np.asarray(drawn_R, dtype=float), n)
    return Interval(point, float(low), float(high))


def bootstrap_columns(
    values_PK: ArrayLike, *, resamples: int = RESAMPLES
) -> tuple[Array, Array, Array]:
    """Mean, low and high of every column of ``values_PK``, each (K,).

    A single prompt has no interval: low and high equal the mean. The last few answers are remembered:
    a bucket that holds all prompts asks again what the whole evaluation asked.
    """
    values = _check(values_PK)
    return _bootstrapped(values.tobytes(), values.shape, resamples)


@lru_cache(maxsize=8)
def _bootstrapped(
    data: bytes, shape: tuple[int, ...], resamples: int
) -> tuple[Array, Array, Array]:
    values = np.frombuffer(data).reshape(shape)
    mean = values.mean(axis=0)
    if len(values) < 2:
        return mean, mean, mean
    low, high = percentiles(resampled_means(values, resamples=resamples), len(values))
    return mean, low, high


def bootstrap(values_P: ArrayLike, *, resamples: int = RESAMPLES) -> Interval:
    """Percentile bootstrap of a mean over prompts."""
    columns = np.asarray(values_P, dtype=float)[:, None]
    mean, low, high = bootstrap_columns(columns, resamples=resamples)
    return Interval(float(mean[0]), float(low[0]), float(high[0]))


def bootstrap_ratio(above_P: ArrayLike, below_P: ArrayLike) -> Interval:
    """Ratio of two sums over prompts, which are drawn together, with its percentile interval."""
    both_P2 = np.stack([_check(above_P), _check(below_P)], axis=1)
    ratio = float(both_P2[:, 0].sum() / both_P2[:, 1].sum())
    if len(both_P2) < 2:
        return Interval(ratio, ratio, ratio)
    means_R2 = resampled_means(both_P2)
    low, high = percentiles(means_R2[:, 0] / means_R2[:, 1], len(both_P2))
    return Interval(ratio, float(low), float(high))


def seed_interval(
    mean_S: ArrayLike, low_S: ArrayLike, high_S: ArrayLike, variance: float = 0.0, df: float = 0.0
) -> Interval:
    """One interval from the prompt intervals of several training seeds of one method.

    The t interval over the seed means, added in quadrature to the mean prompt interval on each side.
    (The t part alone is about these very prompts; the prompts, shared by all seeds, are a sample too.
    Adding squared half-widths is the variance-recovery method of Zou and Donner, Statistics in Medicine
    27, 2008. It errs on the wide side, since the residual is in both parts.)

    Args:
        mean_S: the mean of each seed.
        low_S: lower ends of their prompt intervals.
        high_S: upper ends.
        variance: of one seed's mean, from `kdbench.harness.seed_variance`.
        df: degrees of freedom behind it; 0: it is not known, and the interval is about these students
            only.
    """
    means, lows, highs = _check(mean_S), _check(low_S), _check(high_S)
    centre = float(means.mean())
    below, above = float((means - lows).mean()), float((highs - means).mean())
    if df > 0:
        spread = t_quantile(0.5 + LEVEL / 2, df) * math.sqrt(variance / len(means))
        below, above = math.hypot(below, spread), math.hypot(above, spread)
    return Interval(centre, centre - below, centre + above)


def sign_flips(prompts: int, resamples: int) -> Iterator[Array]:
    """Blocks of ±1 rows: all 2^P of them up to 12 prompts, else ``resamples`` random ones."""
    if prompts <= _EXACT_PROMPTS:
        bits = (np.arange(2**prompts)[:, None] >> np.arange(prompts)) & 1
        yield (1.0 - 2.0 * bits).astype(np.float64)
        return
    rng = generator(f"flips:{prompts}")
    step = max(1, min(resamples, _BLOCK // (8 * prompts)))  # small enough for the cache
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        raw = np.frombuffer(rng.bytes((rows * prompts + 7) // 8), dtype=np.uint8)
        flips = np.unpackbits(raw, count=rows * prompts).reshape(rows, prompts).astype(float)
        flips *= -2.0
        flips += 1.0
        yield flips


def randomisation_p(differences_P: ArrayLike, *, resamples: int = RESAMPLES) -> float:
    """Two-sided approximate randomisation test of mean difference 0: labels swapped per prompt.

    Exact (all swaps) up to 12 prompts; else (1 + extreme swaps) / (1 + swaps), never 0.
    """
    values = _check(differences_P)
    observed = abs(float(values.sum())) * (1 - 1e-12)
    extreme, drawn = 0, 0
    for flips_RP in sign_flips(len(values), resamples):
        extreme += int((np.abs(flips_RP @ values) >= observed).sum())
        drawn += len(flips_RP)
    if not drawn:
        raise ValueError("a randomisation test needs at least one resample")
    exact = len(values) <= _EXACT_PROMPTS
    return extreme / drawn if exact else (1 + extreme) / (1 + drawn)


def holm(p_M: ArrayLike) -> Array:
    """Holm's step-down adjusted p-values, in the order given (Holm, Scand. J. Stat. 6, 1979)."""
    p = np.asarray(p_M, dtype=float)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def minimum_detectable_effect(standard_error: float, *, df: float = math.inf) -> float:
    """Smallest true difference that a test at `LEVEL` finds with probability `POWER`."""
    return (t_quantile(0.5 + LEVEL / 2, df) + t_quantile(POWER, df)) * standard_error
