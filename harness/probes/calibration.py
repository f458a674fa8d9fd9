"""How well the model's confidence in the next token of a reference answer is its accuracy."""

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kdbench.harness import stats
from kdbench.harness.probes.subject import (
    Array,
    Report,
    Subject,
    estimate,
    mean_estimate,
    reference_sequences,
)
from kdbench.harness.questions import PreparedTask
from kdbench.harness.text_model import TextModel
from kdbench.tasks.calibration import Binning, ece, gaps, reliability
from kdbench.trainers.engine import in_process


def settings(subject: Subject, prompts: PreparedTask) -> Report | None:
    """See `kdbench.harness.probes.subject.Probe`."""
    return {} if subject.load else None


def measure(subject: Subject, prompts: PreparedTask, settings: Report) -> Report:
    """ECE, its bins and the Brier score of all next-token predictions."""
    found = next_tokens(subject.model(), prompts)
    shared = (found.confidence_N, found.correct_N)
    totals_P, counts_P = np.bincount(found.owner_N, found.brier_N), np.bincount(found.owner_N)
    return {
        "of": "next-token probabilities on reference answers (first 256 tokens)",
        **calibration(*shared, clusters_N=found.owner_N),
        "equal_mass": calibration(*shared, clusters_N=found.owner_N, binning="mass"),
        "brier": mean_estimate((totals_P / counts_P).tolist()),
    }


class NextTokens(NamedTuple):
    """Predictions of every token of the prompts' first references, end tokens included.

    Attributes:
        owner_N: which prompt a token belongs to, counting from 0.
        confidence_N: largest probability.
        correct_N: 1.0 where the likeliest token is the reference's.
        brier_N: squared distance to the token, summed over the vocabulary.
    """

    owner_N: NDArray[np.int64]
    confidence_N: Array
    correct_N: Array
    brier_N: Array


def next_tokens(model: TextModel, prompts: PreparedTask) -> NextTokens:
    """One forward over all prompts with their first references (teacher forcing)."""
    sequences = reference_sequences(model, prompts)
    targets = iter([token for s in sequences for token in s.response])
    parts = []
    for logits_nV in in_process(model.engine, "calibration").logit_tiles(sequences):
        target_n = torch.tensor([next(targets) for _ in logits_nV], device=logits_nV.device)
        q_nV = logits_nV.softmax(-1)
        best_n, token_n = q_nV.max(-1)
        wanted_n = q_nV.gather(-1, target_n[:, None])[:, 0]
        brier_n = q_nV.square().sum(-1) - 2 * wanted_n + 1
        parts.append(torch.stack([best_n, token_n == target_n, brier_n]).double().cpu())
    owner_N = np.repeat(np.arange(len(sequences)), [s.targets for s in sequences])
    return NextTokens(owner_N, *torch.cat(parts, dim=1).numpy())


def calibration(
    confidence_N: Array,
    correct_N: Array,
    *,
    clusters_N: NDArray[np.int64] | None = None,
    binning: Binning = "width",
) -> dict[str, Any]:
    """ECE with its interval (percentiles of prompt resamples, less their bias), and the bins.

    Args:
        confidence_N: largest probability of each prediction.
        correct_N: 1 where the prediction is right.
        clusters_N: the prompt each prediction belongs to, counting from 0; None: one each.
        binning: bins of equal width, or of equal mass (then fixed at those of the whole sample).
    """
    gaps_NB = gaps(confidence_N, correct_N, binning=binning)
    owner = np.arange(len(gaps_NB)) if clusters_N is None else clusters_N
    prompts = int(owner.max()) + 1
    sums_PB = np.zeros((prompts, gaps_NB.shape[1] + 1))
    np.add.at(sums_PB, owner, np.column_stack([gaps_NB, np.ones(len(gaps_NB))]))
    point = ece(confidence_N, correct_N, binning=binning)
    low = high = point
    if prompts > 1:
        means = stats.resampled_means(sums_PB)
        resampled = np.abs(means[:, :-1]).sum(axis=1) / means[:, -1]
        # |gap| grows with noise and resampling adds noise: without its bias taken off, the interval
        # of a well calibrated model would lie above its own estimate
        centred = resampled - resampled.mean() + point
        low, high = (min(1.0, max(0.0, float(b))) for b in stats.percentiles(centred, prompts))
    return {
        "ece": estimate(point, low, high, prompts),
        "binning": f"{gaps_NB.shape[1]} bins of equal {binning}",
        "accuracy": float(np.mean(correct_N)),
        "confidence": float(np.mean(confidence_N)),
        "predictions": len(gaps_NB),
        "bins": [asdict(bin_) for bin_ in reliability(confidence_N, correct_N, binning=binning)],
    }
