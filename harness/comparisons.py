"""What the true means of the rows of a column may be, and which rows may be the best.

One mechanism serves every number that is made of several rows: `Column.deviations_RM` draws, again and
again, by how much the means of all rows may be off, together. The prompts are resampled (the same
prompts for every row: comparisons are paired), and each row gets a normal error of its own training
seeds. Both are widened by a chi-square draw of their variance, so that few prompts and few seeds count as
Student's t has it (a fiducial draw, as in the Behrens-Fisher problem). A pooled variance has one such draw
for all rows. What a training seed does to all rows alike is drawn once for all of them: it cancels between
rows of the same seeds, and not between them and a teacher.

Axes: ``M`` rows, ``P`` prompts, ``R`` resamples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdbench.harness import stats
from kdbench.harness.seed_variance import SeedVariance, fit_blocks
from kdbench.harness.stats import Array

Indices = NDArray[np.int64]
TINY = 1e-9
"""Below this an error is rounding noise: two rows answered every prompt alike."""
NO_DOUBT = 0.5
"""A row with so large a p-value may be the best, and so may all above it: no p is looked for there."""
ONE_SIGMA = (0.1587, 0.5, 0.8413)
"""Quantiles of a normal one standard deviation below and above its middle."""
DRAWS = 4_000
"""Resamples behind each number that is made of several rows."""


class Comparison(NamedTuple):
    """Row a minus row b over the prompts both have."""

    difference: float
    low: float
    high: float
    p: float
    seeds_measured: bool
    """True if the spread between training seeds is part of ``p`` and of the interval."""
    standard_error: float
    df: float


class Errors(NamedTuple):
    """Means of rows on the same prompts, and what their errors are made of."""

    mean_PM: Array
    covariance_MM: Array
    """Of the means, over prompts."""
    number_M: Array
    """Training seeds."""
    residual_M: Array
    """Variance of one seed's mean that is the noise of its prompts: it is in both other parts. Of rows that
    share seeds without what one seed does to all of them on a prompt."""
    seeds: SeedVariance

    @property
    def excess_M(self) -> Array:
        """Variance of the mean that training seeds add to that over prompts."""
        excess: Array = np.maximum(self.seeds.variance_M - self.residual_M, 0.0) / self.number_M
        return excess

    def variance(self, first: Indices, second: Indices) -> tuple[Array, Array]:
        """Variance of the difference of two rows over prompts alone, and with the seeds."""
        over = np.diag(self.covariance_MM)
        prompt = over[first] + over[second] - 2 * self.covariance_MM[first, second]
        prompt = np.maximum(prompt, 0.0)
        between = self.seeds.variance_M / self.number_M
        total = prompt + self.excess_M[first] + self.excess_M[second]
        total = np.maximum(total, between[first] + between[second])
        return prompt, total + self._unequal(first, second)

    def _unequal(self, first: Indices, second: Indices) -> Array:
        """Variance of the difference of two rows that stems from their having different seeds, or none."""
        share = self.seeds.share_MS
        if share is None:
            return np.zeros(np.shape(first))
        return np.asarray(self.seeds.shared * ((share[first] - share[second]) ** 2).sum(axis=-1))

    def df(self, first: Indices, second: Indices) -> Array:
        """Satterthwaite's degrees of freedom of the difference of two rows."""
        prompt, total = self.variance(first, second)
        between = self.seeds.variance_M / self.number_M
        known = np.maximum(self.seeds.df_M, 1.0)
        if self.seeds.pooled:  # one variance stands in both
            squares = (between[first] + between[second]) ** 2 / np.maximum(
                known[first], known[second]
            )
        else:
            squares = between[first] ** 2 / known[first] + between[second] ** 2 / known[second]
        unequal = self._unequal(first, second)
        below = squares + prompt**2 / (len(self.mean_PM) - 1)
        below = below + unequal**2 / max(self.seeds.shared_df, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.maximum(np.where(below > 0, total**2 / below, np.inf), 1.0)


def errors(
    values: Sequence[Array],
    seeds: SeedVariance,
    labels: Sequence[Sequence[object]] | None = None,
) -> Errors:
    """What the errors of rows are made of.

    Args:
        values: of each row the scores, training seeds by prompts; at least two prompts, the same ones.
        seeds: their variance between training seeds.
        labels: which seeds these are; None: no row shares any with another.
    """
    mean_PM = np.stack([value.mean(axis=0) for value in values], axis=1)
    number_M = np.array([len(value) for value in values], dtype=float)
    residual_M = np.array([_residual(value) for value in values])
    if seeds.share_MS is not None and labels is not None:
        residual_M = _own_residual(values, labels, residual_M)
    known = number_M - 1
    if seeds.pooled and known.any():
        residual_M = np.full(len(values), float(residual_M @ known / known.sum()))
    covariance = np.atleast_2d(np.cov(mean_PM, rowvar=False)) / len(mean_PM)
    return Errors(mean_PM, covariance, number_M, residual_M, seeds)


def _residual(values_SP: Array) -> float:
    """Variance of one seed's mean that is the noise of its prompts."""
    seeds, prompts = values_SP.shape
    if seeds < 2:
        return 0.0
    rest = values_SP - values_SP.mean(axis=0) - values_SP.mean(axis=1)[:, None] + values_SP.mean()
    return float((rest**2).sum()) / ((seeds - 1) * (prompts - 1)) / prompts


def _own_residual(
    values: Sequence[Array], labels: Sequence[Sequence[object]], whole_M: Array
) -> Array:
    """The same less what one seed does to all rows on a prompt, as it is in no row's own variance of seeds.

    Rows that share no seed with others keep the whole: their differences have what seeds do to all.
    """
    several = [i for i, value in enumerate(values) if len(value) > 1]
    fit = fit_blocks([values[i] for i in several], [labels[i] for i in several])
    if fit is None:
        return whole_M
    prompts = fit.y_N.shape[1]
    apart = len(fit.y_N) - len(several)
    share = (len(fit.y_N) - fit.rank) / apart
    if share <= 0:
        return whole_M
    rest_NP = fit.rest_N - fit.rest_N.mean(axis=1, keepdims=True)
    squares_M = fit.row_NM.T @ (rest_NP**2).sum(axis=1)
    own_M = whole_M.copy()
    df_M = (fit.row_NM.sum(axis=0) - 1) * share
    own_M[several] = squares_M / (df_M * (prompts - 1) * prompts)
    return own_M


# -- two rows -------------------------------------------------------------------------------------


def compare_rows(
    a_SP: Array,
    b_SP: Array,
    seeds: SeedVariance,
    labels: Sequence[Sequence[object]] | None = None,
    *,
    resamples: int = stats.RESAMPLES,
) -> Comparison:
    """Paired comparison of two rows over the same prompts in the same order.

    A t test and interval whose variance has the training seeds in it, where both rows' are measured; else
    a randomisation test and a paired bootstrap over prompts, which are about these students only.

    Args:
        a_SP: values of row a, training seeds by prompts (one seed for a row without training).
        b_SP: values of row b; its seeds need not be a's.
        seeds: variances between training seeds of the two.
        labels: which seeds these are of a, and of b; see `errors`.
        resamples: number of swaps and of resamples where seeds are not measured.
    """
    found = errors([a_SP, b_SP], seeds, labels)
    difference_P = found.mean_PM[:, 0] - found.mean_PM[:, 1]
    mean = float(difference_P.mean())
    pair = np.array([0]), np.array([1])
    over_prompts, total = (float(np.sqrt(variance[0])) for variance in found.variance(*pair))
    if not seeds.measured_M.all():
        interval = stats.bootstrap(difference_P, resamples=resamples)
        p = stats.randomisation_p(difference_P, resamples=resamples)
        return Comparison(*interval, p, False, over_prompts, len(difference_P) - 1.0)
    df = float(found.df(*pair)[0])
    half = stats.t_quantile(0.5 + stats.LEVEL / 2, df) * total
    p = float(stats.t_two_sided(mean / total, df)) if total > TINY else float(abs(mean) < TINY)
    return Comparison(mean, mean - half, mean + half, p, True, total, df)


# -- all rows together ----------------------------------------------------------------------------


class Column(NamedTuple):
    """Rows on the same prompts, and how much their means may be off."""

    mean_M: Array
    deviations_RM: Array
    """Draws of true minus observed mean."""
    error_MM: Array
    """Standard error of the difference of two rows."""
    seed_RM: Array
    """Draws of the variance of one training's mean on these prompts: under a seed of its own, so with what a
    seed does to all rows alike."""
    measured_M: NDArray[np.bool_]
    """Whether a row's draws know its training seeds."""

    def of(self, rows: Sequence[int]) -> "Column":
        """The same of some of the rows."""
        place = list(rows)
        errors_MM = self.error_MM[np.ix_(place, place)]
        drawn = (self.deviations_RM[:, place], errors_MM, self.seed_RM[:, place])
        return Column(self.mean_M[place], *drawn, self.measured_M[place])

    def studentised(self, first: Indices, second: Indices) -> tuple[Array, Array]:
        """Differences of pairs over their errors: as measured (K,), and as chance makes them (R, K)."""
        error = self.error_MM[first, second]
        same = error < TINY
        error = np.maximum(error, TINY)
        lead = (self.mean_M[first] - self.mean_M[second]) / error
        drawn = (self.deviations_RM[:, first] - self.deviations_RM[:, second]) / error
        drawn[:, same] = 0.0
        return np.where(np.abs(lead) < TINY, 0.0, lead), drawn


def column(
    found: Errors, label: str, *, normal_RM: Array | None = None, resamples: int = DRAWS
) -> Column:
    """Draws of what the true means of the rows may be.

    Args:
        found: the rows.
        label: names the prompts: columns of the same prompts have the same draws of them.
        normal_RM: standard normal draws, one a row; None: of this column's own. A table hands in those
            that its columns share, since a good student is good in all of them.
        resamples: number of draws.
    """
    prompts, rows = found.mean_PM.shape
    mean_M = found.mean_PM.mean(axis=0)
    if normal_RM is None:
        normal_RM = stats.generator(f"seeds:{rows}:{label}").standard_normal((resamples, rows))
    variance_RM = found.seeds.variance_M / _shrunk(found.seeds, resamples)
    drawn_RM = np.maximum(variance_RM - found.residual_M, 0.0) / found.number_M
    over_prompts = stats.resampled_means(found.mean_PM, resamples=resamples, label=label) - mean_M
    spread_R = stats.generator(f"prompts:{prompts}").chisquare(prompts - 1, size=resamples)
    over_prompts *= np.sqrt(prompts / spread_R)[:, None]
    luck_RM, shared_RM = _shared(found.seeds, resamples)
    luck = over_prompts + normal_RM * np.sqrt(drawn_RM) + luck_RM
    first, second = np.indices((rows, rows))
    return Column(
        mean_M=mean_M,
        deviations_RM=luck,
        error_MM=np.sqrt(found.variance(first, second)[1] * (first != second)),
        seed_RM=variance_RM + shared_RM,
        measured_M=found.seeds.measured_M,
    )


def _shared(seeds: SeedVariance, resamples: int) -> tuple[Array | float, Array | float]:
    """Draws of what rows owe to their seeds as all rows of these do, and of its variance, each (R, M)."""
    share = seeds.share_MS
    if share is None:
        return 0.0, 0.0
    rng = stats.generator(f"shared:{share.shape[1]}:{seeds.shared_df:g}")
    luck_RS = rng.standard_normal((resamples, share.shape[1]))
    variance_R = seeds.shared * seeds.shared_df / rng.chisquare(seeds.shared_df, resamples)
    luck_RM = np.sqrt(variance_R)[:, None] * luck_RS @ share.T
    return np.asarray(luck_RM), np.asarray(variance_R[:, None] * share.any(axis=1))


def _shrunk(seeds: SeedVariance, resamples: int) -> Array:
    """Chi-square over its degrees of freedom: (R, 1) if pooled, else (R, M); 1 where nothing is known."""
    df_M = seeds.df_M
    label = f"spread:{','.join(f'{df:g}' for df in df_M)}"
    if seeds.pooled:
        df_M = np.array([df_M.max()])
        label = f"spread:{df_M[0]:g}"
    known = np.where(df_M > 0, df_M, 1.0)
    drawn = stats.generator(label).chisquare(known, size=(resamples, len(known))) / known
    return np.where(df_M > 0, drawn, 1.0)


# -- which rows may be the best -------------------------------------------------------------------


def best_p(found: Column, better: int) -> Array:
    """For each row the p-value of "no row is better than this one", for all rows together.

    Rows are struck off one by one, the clearest loser first, until the differences among those left are
    within what chance makes of equal rows (the largest studentised difference of any two). A row's
    p-value is the largest met until it was struck off. The set of rows with p >= .05 holds *all* of the
    best with probability .95, ties included and whichever happens to look best here: nothing is assumed
    to be the best because it is so on these prompts. Source: Hansen, Lunde and Nason, "The Model
    Confidence Set", Econometrica 79(2), 2011 (statistic T_R, elimination rule e_R).

    Args:
        found: the rows.
        better: 1: higher is better; -1: lower.
    """
    rows = len(found.mean_M)
    p_M = np.ones(rows)
    first, second = np.triu_indices(rows, k=1)
    lead, drawn_RK = found.studentised(first, second)
    lead, drawn_RK = better * lead, np.abs(drawn_RK)
    left = np.ones(rows, dtype=bool)
    largest = 0.0
    while left.sum() > 1 and largest < NO_DOUBT:
        among = np.flatnonzero(left[first] & left[second])
        pair = among[np.abs(lead[among]).argmax()]
        largest = max(largest, _beyond(drawn_RK[:, among].max(axis=1), abs(lead[pair])))
        loser = second[pair] if lead[pair] > 0 else first[pair]
        p_M[loser] = largest
        left[loser] = False
    return p_M


def family_p(found: Column, first: Indices, second: Indices) -> Array:
    """p-values of a family of pairs, so that any false alarm among them has probability .05 at most.

    Holm's step-down procedure, with the distribution of the largest of the remaining studentised
    differences in the place of Bonferroni's bound: pairs that share a row, or prompts, are not
    independent. Source: Westfall and Young, Resampling-Based Multiple Testing, 1993 (maxT).
    """
    lead, drawn_RK = found.studentised(first, second)
    order = np.argsort(-np.abs(lead), kind="stable")
    drawn_RK = np.abs(drawn_RK[:, order])
    largest_RK = np.maximum.accumulate(drawn_RK[:, ::-1], axis=1)[:, ::-1]
    p = np.empty(len(lead))
    worst = 0.0
    for place, pair in enumerate(order):
        worst = max(worst, _beyond(largest_RK[:, place], abs(lead[pair])))
        p[pair] = worst
    return p


def _beyond(drawn_R: Array, observed: float) -> float:
    """Share of draws as large as what was observed; never 0."""
    return float((1 + (drawn_R >= observed - TINY).sum()) / (1 + len(drawn_R)))


def alike(values_M: Array, draws_RM: Array) -> NDArray[np.bool_]:
    """Which rows cannot be told apart in a number, for all pairs together (the largest difference).

    A difference's error is half the width of its middle 68%: few seeds of unequal variance draw so widely
    that a standard deviation would be that of a few draws, and nothing would ever be apart.

    Args:
        values_M: the number of each row.
        draws_RM: what it may be.
    """
    first, second = np.triu_indices(len(values_M), k=1)
    if not len(first):
        return np.ones((len(values_M), len(values_M)), dtype=bool)
    drawn_RK = draws_RM[:, first] - draws_RM[:, second]
    low_K, middle_K, high_K = np.quantile(drawn_RK, ONE_SIGMA, axis=0)
    error_K = np.maximum((high_K - low_K) / 2, 1e-9)
    largest_R = (np.abs(drawn_RK - middle_K) / error_K).max(axis=1)
    limit = float(np.quantile(largest_R, stats.LEVEL))
    same = np.ones((len(values_M), len(values_M)), dtype=bool)
    within = np.abs(values_M[first] - values_M[second]) <= limit * error_K
    same[first, second] = same[second, first] = within
    return same
