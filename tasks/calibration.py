"""Calibration of probabilities: reliability bins, expected calibration error, Brier score.

Top-label calibration: the confidence of a prediction is its largest probability, and it is right or
wrong. With bins B of n predictions (Guo et al. 2017, "On Calibration of Modern Neural Networks",
section 3; Naeini et al. 2015)

    ECE = sum_B |B| / n * |mean correct in B - mean confidence in B|.

A bin holds confidences in (low, high], the first also 0. The Brier score is summed over classes, as
lm-eval's ``brier_score``: between 0 and 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Binning = Literal["width", "mass"]

BINS = 15
SCORER = "kdbench-calibration-1"
"""Version of the numbers; changed whenever any of them would change."""


class Prediction(NamedTuple):
    """What one classified text gave.

    Attributes:
        probabilities: softmax over the label words' log-probabilities.
        confidence: the largest of them.
        correct: 1.0 if its label is the right one, else 0.0; the first of equal ones counts.
        brier: squared distance to the right label, summed over classes.
    """

    probabilities: tuple[float, ...]
    confidence: float
    correct: float
    brier: float


@dataclass(frozen=True, slots=True)
class Bin:
    """One reliability bin; ``confidence`` and ``accuracy`` are None if it is empty."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def predict(log_likelihoods: Sequence[float], gold: int) -> Prediction:
    """A prediction from the log-probabilities (nats) of all label words.

    Args:
        log_likelihoods: one a label; -inf is allowed for all but one.
        gold: index of the right label.
    """
    scores = np.asarray(log_likelihoods, dtype=float)
    weights = np.exp(scores - scores.max())
    probabilities = weights / weights.sum()
    truth = np.eye(len(scores))[gold]
    top = int(np.argmax(scores))
    return Prediction(
        probabilities=tuple(float(p) for p in probabilities),
        confidence=float(probabilities[top]),
        correct=float(top == gold),
        brier=float(((probabilities - truth) ** 2).sum()),
    )


def bin_edges(confidence_P: ArrayLike, *, bins: int = BINS, binning: Binning = "width") -> Array:
    """Bin bounds (bins + 1,) from 0 to 1: of equal width, or with equal numbers of predictions.

    With ties between confidences, bins of equal mass may coincide; then there are fewer of them.
    """
    if binning == "width":
        return np.linspace(0.0, 1.0, bins + 1)
    confidence = np.asarray(confidence_P, dtype=float)
    inner = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def bin_index(confidence_P: ArrayLike, edges: Array) -> NDArray[np.int64]:
    """The bin of each confidence, (P,): bin b is (edges[b], edges[b + 1]], the first closed."""
    return np.clip(np.searchsorted(edges, confidence_P, side="left") - 1, 0, len(edges) - 2)


def reliability(
    confidence_P: ArrayLike, correct_P: ArrayLike, *, bins: int = BINS, binning: Binning = "width"
) -> list[Bin]:
    """The reliability diagram's bins, empty ones included."""
    confidence, correct = np.asarray(confidence_P, float), np.asarray(correct_P, float)
    edges = bin_edges(confidence, bins=bins, binning=binning)
    place = bin_index(confidence, edges)
    count = np.bincount(place, minlength=len(edges) - 1)
    columns: list[list[Any]] = [edges[:-1].tolist(), edges[1:].tolist(), count.tolist()]
    for values in (confidence, correct):
        means = np.bincount(place, values, minlength=len(count)) / np.maximum(count, 1)
        columns.append([m if n else None for m, n in zip(means.tolist(), count, strict=True)])
    return [Bin(*row) for row in zip(*columns, strict=True)]


def gaps(confidence_P: ArrayLike, correct_P: ArrayLike, *, binning: Binning = "width") -> Array:
    """(P, bins): each prediction's correct - confidence in the column of its bin, else 0.

    ECE is the sum over columns of |column mean|; so is the ECE of a resample, which is what an
    interval needs.
    """
    confidence, correct = np.asarray(confidence_P, float), np.asarray(correct_P, float)
    edges = bin_edges(confidence, binning=binning)
    gaps_PB = np.zeros((len(confidence), len(edges) - 1))
    gaps_PB[np.arange(len(confidence)), bin_index(confidence, edges)] = correct - confidence
    return gaps_PB


def ece(confidence_P: ArrayLike, correct_P: ArrayLike, *, binning: Binning = "width") -> float:
    """Expected calibration error of the top label, 0 to 1.

    Raises:
        ValueError: no predictions.
    """
    gaps_PB = gaps(confidence_P, correct_P, binning=binning)
    if not len(gaps_PB):
        raise ValueError("calibration needs at least one prediction")
    return float(np.abs(gaps_PB.mean(axis=0)).sum())
