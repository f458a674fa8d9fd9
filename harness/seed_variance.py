"""The variance between training seeds, pooled over the rows of a column where they are alike.

Methods that train under the same seed share much of its luck: the initial weights, the init, the order of
rows. Where rows have seeds in common, a score is taken as row + seed + rest (a randomised block design,
Box, Hunter and Hunter, Statistics for Experimenters, 2005, chapter 4): what a seed does to all rows alike
is no error of a comparison between them, and only the rest is. As with intervals for repeated measures
(Loftus and Masson, Psychonomic Bulletin & Review 1, 1994) it is left out of rows' intervals, too, which
are there to be compared; how large it is, is said beside them. It does not cancel between a method and a
model that was not trained here (the teacher, or a published student): there differences have it.

Three seeds of one method leave two degrees of freedom; ten methods of three seeds leave twenty, if
their seeds differ equally much. Whether they do is tested with Bartlett's statistic, whose
distribution under equal variances is simulated for the degrees of freedom at hand. (Its chi-square
approximation is poor at two to four degrees of freedom; Levene's and Brown and Forsythe's tests hardly
ever reject there, since the median of three to five values is one of them. A mean over hundreds of
prompts is near enough to normal, and where it is not Bartlett's test rejects too often, which costs
power and no more.) The level is liberal, since a difference that is overlooked costs coverage and a
false alarm only power. It asks whether the variances differ, and one loud row among many quiet ones hardly
moves it: so a row whose own variance is too large for the others' (F test, Bonferroni over rows) ends the
pooling, too. Source: Bartlett, Proc. R. Soc. A 160, 1937; on pooling after a preliminary test
Bancroft and Han, Int. Stat. Review 45, 1977.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from kdbench.harness import stats
from kdbench.harness.stats import Array

LEVEL = 0.4
"""Variances are taken as alike unless they would differ so much less often than this by chance. At 0.2 five
seeds gave up to 7% false alarms where one method's seeds vary more (docs/column-coverage.md)."""
LOUD = 0.05
"""Level at which one row's variance is too large to stand for the others'."""
MIN_DF = 4
"""Fewer degrees of freedom than this are not pooled: two rows of three seeds have as many."""
FEWEST = 3
"""Rows of several seeds; fewer say nothing of how variances differ."""
ENOUGH = 4.0
"""Degrees of freedom at which a row needs no help. More help would decide more, and be wrong more often than
one time in twenty (measured: 1.5 points more false alarms at five seeds where variances differ)."""
ROUNDING = 1e-12
"""A variance below this is that of equal values."""
_RESAMPLES = 10_000


class SeedVariance(NamedTuple):
    """Variance of the mean score of one training seed, for each row of a column."""

    variance_M: Array
    """In squared points; 0 where it is not measured, and for models that were not trained here."""
    df_M: Array
    """Degrees of freedom behind each; 0: not measured."""
    measured_M: NDArray[np.bool_]
    """Whether a row's error can hold its training seeds: they were measured, or there are none."""
    pooled: bool
    """Whether all rows have one variance, whose degrees of freedom are all rows' together."""
    p: float
    """Of Bartlett's test that the rows' variances are equal; 1 where there are no two."""
    rows: int
    """Rows of several seeds, which it is of."""
    shared: float = 0.0
    """Variance of what one training seed does to all rows alike; it is not in `variance_M`."""
    shared_df: float = 0.0
    share_MS: Array | None = None
    """How much each seed counts in a row's mean; 0 in rows that were not trained here. None: seeds are not
    shared."""
    number_M: Array | None = None
    """Training seeds of each row, where seeds are shared."""

    def unequal(self) -> Array:
        """Variance of each row's mean that stems from its having other seeds than all have, (M,)."""
        if self.share_MS is None:
            return np.zeros(len(self.variance_M))
        trained_M = np.asarray(self.share_MS.any(axis=1))
        apart_MS = self.share_MS - trained_M[:, None] / self.share_MS.shape[1]
        return np.asarray(self.shared * (apart_MS**2).sum(axis=1))

    @property
    def spread(self) -> float | None:
        """Standard deviation of one training seed, if it is the same for all rows."""
        return math.sqrt(self.variance_M.max()) if self.pooled else None

    def spreads(self, *, alone: bool = False) -> list[tuple[float, float]]:
        """Variance and degrees of freedom of each row, as `stats.seed_interval` takes them.

        What all rows share is not in it, but for rows that have other seeds than all have; degrees of
        freedom of the sum by Satterthwaite.

        Args:
            alone: of rows that stand beside a number of other seeds, so with all that rows share.
        """
        if self.number_M is None or self.share_MS is None:
            return list(zip(self.variance_M.tolist(), self.df_M.tolist(), strict=True))
        trained_M = self.share_MS.any(axis=1)
        more_M = self.shared * trained_M if alone else self.unequal() * self.number_M
        total_M = self.variance_M + more_M
        below_M = self.variance_M**2 / np.maximum(self.df_M, 1) + more_M**2 / self.shared_df
        df_M = np.divide(total_M**2, below_M, out=self.df_M.copy(), where=below_M > 0)
        return list(zip(total_M.tolist(), np.where(self.df_M > 0, df_M, 0).tolist(), strict=True))

    def of(self, rows: Sequence[int]) -> "SeedVariance":
        """The same of some of the rows."""
        place = list(rows)
        return self._replace(
            variance_M=self.variance_M[place],
            df_M=self.df_M[place],
            measured_M=self.measured_M[place],
            share_MS=None if self.share_MS is None else self.share_MS[place],
            number_M=None if self.number_M is None else self.number_M[place],
        )


_Shared = tuple[float, float, Array | None, Array | None]


class _Blocks(NamedTuple):
    """Rows with their seeds' shared luck taken out."""

    own: Array
    df_M: Array
    shared: float
    shared_df: float
    share_MS: Array
    number_M: Array


class Fit(NamedTuple):
    """Row + seed, by least squares over N trainings."""

    row_NM: Array
    """1 where a training is the row's."""
    seed_NS: Array
    y_N: Array
    effect_M: Array
    effect_S: Array
    rank: int

    @property
    def rest_N(self) -> Array:
        """What neither row nor seed says."""
        return np.asarray(self.y_N - self.row_NM @ self.effect_M - self.seed_NS @ self.effect_S)


def fit_blocks(means: Sequence[Array], seeds: Sequence[Sequence[object]]) -> Fit | None:
    """Fits row + seed to means, or to each prompt's scores (seeds by prompts); None without any value."""
    known: dict[object, int] = {}
    row_N = [i for i, row in enumerate(means) for _ in row]
    seed_N = [known.setdefault(seed, len(known)) for own in seeds for seed in own]
    if not row_N:
        return None
    y_N = np.concatenate([np.asarray(row, dtype=float) for row in means])
    row_NM, seed_NS = np.eye(len(means))[row_N], np.eye(len(known))[seed_N]
    effects, _, rank, _ = np.linalg.lstsq(np.hstack([row_NM, seed_NS]), y_N, rcond=None)
    return Fit(row_NM, seed_NS, y_N, effects[: len(means)], effects[len(means) :], int(rank))


def without_shared(means: Sequence[Array], seeds: Sequence[Sequence[object]]) -> list[Array]:
    """Each row's means less what their seeds do to all rows alike."""
    fit = fit_blocks(means, seeds)
    if fit is None:
        return list(means)
    kept_N = fit.y_N - fit.seed_NS @ (fit.effect_S - fit.effect_S.mean())
    return [kept_N[fit.row_NM[:, i] > 0] for i in range(len(means))]


def _blocks(
    means: Sequence[Array], kind: NDArray[np.bool_], seeds: Sequence[Sequence[object]]
) -> _Blocks | None:
    """Row + seed + rest, where rows share seeds and enough is left to know the rest by."""
    part = [i for i in range(len(means)) if kind[i] and len(means[i])]
    fit = fit_blocks([means[i] for i in part], [seeds[i] for i in part])
    if fit is None:
        return None
    df, shared_df = len(fit.y_N) - fit.rank, fit.rank - len(part)
    if df < MIN_DF or shared_df < 1:
        return None
    number = fit.row_NM.sum(axis=0)
    within_N = fit.y_N - fit.row_NM @ (fit.row_NM.T @ fit.y_N / number)
    within = float((within_N**2).sum()) / (len(fit.y_N) - len(part))
    # seeds are always taken out, not only where they are seen: of two variances the smaller is too small
    shared = max(within - float((fit.rest_N**2).sum()) / df, 0.0)
    own, df_M = np.zeros(len(means)), np.zeros(len(means))
    df_M[part] = (number - 1) * df / (len(fit.y_N) - len(part))
    squares = fit.row_NM.T @ fit.rest_N**2
    own[part] = np.divide(squares, df_M[part], out=np.zeros(len(part)), where=df_M[part] > 0)
    share_MS = np.zeros((len(means), fit.seed_NS.shape[1]))
    share_MS[part] = fit.row_NM.T @ fit.seed_NS / number[:, None]
    number_M = np.array([max(len(row), 1) for row in means], dtype=float)
    return _Blocks(own, df_M, shared, float(shared_df), share_MS, number_M)


def seed_variance(
    means: Sequence[ArrayLike],
    trained: Sequence[bool],
    seeds: Sequence[Sequence[object]] | None = None,
) -> SeedVariance:
    """Pools the variance between training seeds, or says what each row has of its own.

    Args:
        means: of each row the mean score of each of its seeds.
        trained: which rows were trained here; others have no variance between seeds.
        seeds: which these are; None: no row shares any with another.

    A row of one seed borrows the pooled variance. Where variances differ, or too few seeds are there, a
    row has its own from `stats.MIN_TRAINING_SEEDS` seeds on, moderated by the others', and one of fewer
    seeds none.
    """
    arrays = [np.asarray(row, dtype=float) for row in means]
    kind = np.asarray(trained, dtype=bool)
    df = np.array([max(len(row) - 1, 0) for row in arrays], dtype=float) * kind
    own = np.array([row.var(ddof=1) if d else 0.0 for row, d in zip(arrays, df, strict=True)])
    least = df >= stats.MIN_TRAINING_SEEDS - 1
    blocks = _blocks(arrays, kind, seeds) if seeds is not None else None
    shared: _Shared = (0.0, 0.0, None, None)
    if blocks is not None:
        own, df, *_ = blocks
        shared = blocks[2:]
    own[own < ROUNDING] = 0.0
    seen = df > 0
    p = homogeneity_p(own[seen], df[seen])
    total = df.sum()
    several = int(seen.sum())
    if several > 1 and total >= MIN_DF and p >= LEVEL and not loud(own[seen], df[seen]).any():
        variance, known = float((df * own).sum() / total), np.ones(len(arrays), dtype=bool)
        return SeedVariance(kind * variance, kind * total, known, True, p, several, *shared)
    own, df = moderated(own * least, df * least)
    return SeedVariance(own, df, least | ~kind, False, p, several, *shared)


def loud(variance_M: Array, df_M: Array) -> NDArray[np.bool_]:
    """Which rows vary more than the others together allow, all df > 0; .05 familywise, by Bonferroni."""
    total, several = df_M.sum(), len(df_M)
    others_M = total - df_M
    rest_M = (variance_M @ df_M - variance_M * df_M) / np.maximum(others_M, 1e-9)
    ratio_M = np.divide(variance_M, rest_M, out=np.zeros(several), where=rest_M > 0)
    return np.asarray((others_M > 0) & (special.fdtrc(df_M, others_M, ratio_M) < LOUD / several))


def moderated(variance_M: Array, df_M: Array) -> tuple[Array, Array]:
    """Variances of rows that differ in it, each helped by what the others say of it, and their df.

    The true variances are taken as a draw of a scaled inverse chi-square, whose scale and degrees of
    freedom are estimated from all; a row's variance is then the mean of that scale and its own, weighed by
    degrees of freedom. Two seeds leave one of these, at which Student's t knows nothing; the prior adds
    its own. Unlike its source this is one-sided and limited, since boards hold few rows and the noisiest
    matters most: no row falls below its own variance, and none gets more than `ENOUGH` in all. Source:
    Smyth, Stat. Appl. Genet. Mol. Biol. 3(1), 2004, section 6.2.

    Args:
        variance_M: own variances, those that are not measured 0.
        df_M: degrees of freedom of each; 0: not measured.
    """
    seen = (df_M > 0) & (variance_M > 0)
    if seen.sum() < FEWEST:
        return variance_M, df_M
    half_M = df_M[seen] / 2
    log_M = np.log(variance_M[seen]) - special.digamma(half_M) + np.log(half_M)
    differ = float(log_M.var(ddof=1) - special.polygamma(1, half_M).mean())
    prior, below = math.inf, 0.0  # where they differ no more than chance makes them
    if differ > 0:
        prior = 2 * _trigamma_inverse(differ)
        below = float(special.digamma(prior / 2)) - math.log(prior / 2)
    scale = math.exp(float(log_M.mean()) + below)
    known = df_M > 0
    lent_M = np.clip(ENOUGH - df_M, 0.0, prior) * known
    between_M = (lent_M * scale + df_M * variance_M) / np.maximum(lent_M + df_M, 1.0)
    return np.where(known, np.maximum(variance_M, between_M), 0.0), df_M + lent_M


def _trigamma_inverse(value: float) -> float:
    """The x whose trigamma is ``value`` > 0, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = special.polygamma(1, x)
        step = trigamma * (1 - trigamma / value) / special.polygamma(2, x)
        x += step
        if abs(step) < 1e-8 * x:
            break
    return float(x)


def homogeneity_p(variance_M: Array, df_M: Array) -> float:
    """p-value of Bartlett's test that variances are equal, by simulation; 0 if only some are 0."""
    if len(variance_M) < 2 or not variance_M.any():
        return 1.0
    if not variance_M.all():
        return 0.0
    observed = _bartlett(variance_M[None], df_M)[0] - 1e-9
    null_R = _null(tuple(sorted(df_M.tolist())))
    return float((1 + (null_R >= observed).sum()) / (1 + len(null_R)))


def _bartlett(variance_RM: Array, df_M: Array) -> Array:
    """Bartlett's statistic without its constant factor, a row."""
    pooled_R = variance_RM @ df_M / df_M.sum()
    return np.asarray(df_M.sum() * np.log(pooled_R) - np.log(variance_RM) @ df_M)


@functools.lru_cache(maxsize=64)
def _null(dfs: tuple[float, ...]) -> Array:
    """The statistic of normal samples with equal variances."""
    df_M = np.array(dfs)
    rng = stats.generator(f"homogeneity:{','.join(f'{df:g}' for df in dfs)}")
    return _bartlett(rng.chisquare(df_M, size=(_RESAMPLES, len(df_M))) / df_M, df_M)
