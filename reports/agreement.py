"""Whether two sides rank the same methods alike: two pairs of models, or settings by default and tuned.

First stand what was measured (Kendall's tau of the measured scores) and a count that assumes nothing: of all
pairs of methods those that are told apart on both sides, in the same order or reversed.

Noise swaps neighbours, so the measured tau of two sides that agree wholly is below 1, and resampling the
noise once more lowers it further; its percentiles then miss the truth. So there is a third number, of a
model: the true scores of both sides are taken as normal over methods, with the covariance that is left of
the measured one without its noise (that of the joint draws of prompts and training seeds), itself drawn as
few methods leave it unknown (inverse Wishart). Each draw of the true scores has a tau; shown are their
median and 95% interval. Where methods come in clusters, or one lies far off, they are not normal, and that
tau is too high (docs/statistics.md).
"""

from collections.abc import Sequence

import numpy as np

from kdbench.harness import comparisons, stats
from kdbench.harness.files.records import Record
from kdbench.harness.stats import Array

FEWEST = 4
"""Methods; three have four orders, and any two of them agree or not by chance."""
DRAWS = 4_000


class Agreement(Record):
    """How far two sides rank their common methods alike."""

    between: str
    methods: list[str]
    tau: float
    """Kendall's, of the true scores if these are normal over methods: 1 the same order, 0 none, -1 the
    reverse."""
    low: float
    high: float
    measured: float
    """Kendall's tau-b of the scores as measured."""
    same: int = 0
    """Pairs of methods that are told apart on both sides, and in the same order."""
    reversed: int = 0
    """Those in the reverse order."""
    undecided: int = 0
    """Pairs that are not told apart on one side at least."""


def agreement(
    between: str,
    methods: Sequence[str],
    score_2M: Array,
    draws_2RM: Array,
) -> Agreement | None:
    """Rank agreement of two sides; None: too few methods, or all score alike on one side.

    Args:
        between: the sides, in words.
        methods: what they have in common.
        score_2M: mean score of each method on each side, higher is better.
        draws_2RM: what the true scores may be.
    """
    if len(methods) < FEWEST or not score_2M.std(axis=1).all():
        return None
    deviation = draws_2RM - score_2M[:, None]
    deviation = deviation - deviation.mean(axis=2, keepdims=True)
    rows = len(methods)
    noise = np.einsum("arm,brm->ab", deviation, deviation) / (deviation.shape[1] * (rows - 1))
    order = _decided(score_2M, draws_2RM)
    tau_R = kendall(*_true_scores(score_2M, noise))
    tail = (1 - stats.LEVEL) / 2
    low, middle, high = np.quantile(tau_R, [tail, 0.5, 1 - tail])
    return Agreement(
        between=between,
        methods=list(methods),
        tau=round(float(middle), 3),
        low=round(float(low), 3),
        high=round(float(high), 3),
        measured=round(float(kendall(score_2M[0], score_2M[1])), 3),
        same=int((order > 0).sum()),
        reversed=int((order < 0).sum()),
        undecided=int((order == 0).sum()),
    )


def _decided(score_2M: Array, draws_2RM: Array) -> Array:
    """Of each pair of methods 1 or -1 where both sides tell them apart: the same order or the reverse."""
    first, second = np.triu_indices(score_2M.shape[1], k=1)
    product = np.ones(len(first))
    for score_M, draws_RM in zip(score_2M, draws_2RM, strict=True):
        apart = ~comparisons.alike(score_M, draws_RM)[first, second]
        product *= apart * np.sign(score_M[first] - score_M[second])
    return product


def kendall(a: Array, b: Array) -> Array:
    """Kendall's tau-b along the last axis; 0 where one side ties all."""
    first, second = np.triu_indices(a.shape[-1], k=1)
    one = np.sign(a[..., first] - a[..., second])
    two = np.sign(b[..., first] - b[..., second])
    untied = np.sqrt((one**2).sum(axis=-1) * (two**2).sum(axis=-1))
    return np.asarray((one * two).sum(axis=-1) / np.maximum(untied, 1.0))


def _true_scores(score_2M: Array, noise: Array) -> tuple[Array, Array]:
    """Draws of the true scores of both sides, each (R, M)."""
    y_M2 = (score_2M - score_2M.mean(axis=1, keepdims=True)).T
    rows = len(y_M2)
    rng = stats.generator(f"agreement:{rows}")
    seen = _root(y_M2.T @ y_M2 / (rows - 1))
    normal = rng.standard_normal((DRAWS, rows - 1, 2))
    wishart = np.swapaxes(normal, -1, -2) @ normal / (rows - 1)
    covariance = seen @ np.linalg.inv(wishart) @ seen.T
    roots = _root(covariance - noise)
    true = roots @ np.swapaxes(roots, -1, -2)
    kept = true @ np.linalg.pinv(true + noise, hermitian=True)
    mean = np.einsum("rij,mj->rmi", kept, y_M2)
    left = _root(true - kept @ true)
    drawn = mean + np.einsum("rij,rmj->rmi", left, rng.standard_normal((DRAWS, rows, 2)))
    return drawn[..., 0], drawn[..., 1]


def _root(covariance: Array) -> Array:
    """A matrix whose product with its transpose is the nearest covariance there is."""
    even = (covariance + np.swapaxes(covariance, -1, -2)) / 2
    values, vectors = np.linalg.eigh(even)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :])
