"""Bootstrap intervals of what is no plain mean over prompts: exposure bias and calibration.

All are percentiles over resamples of prompts, by `kdbench.harness.stats`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.harness import stats
from kdbench.harness.files.records import Estimate, Missing
from kdbench.tasks.calibration import Binning, ece, gaps, reliability
from kdbench.trainers.exposure import SMALLEST, curves, excess

Array = NDArray[np.float64]

DIGITS = 6
SEED = 0
"""What a deterministic evaluation lists as its decoding seed."""


def exposure_curves(student_PT: Array, teacher_PT: Array) -> dict[str, Any]:
    """R, L·eps, eps and ExAccErr at each L = 1 … T, each with its interval over prompts.

    ``ex_acc_err`` is None where eps is 0 to rounding, and ``undefined`` then says so.
    """
    prompts, length = student_PT.shape
    found = curves(student_PT, teacher_PT)
    both = np.concatenate([student_PT.cumsum(axis=1), teacher_PT.cumsum(axis=1)], axis=1)
    means_RT = stats.resampled_means(both) if prompts > 1 else both
    R, L_eps = means_RT[:, :length], means_RT[:, length:]
    places = np.arange(1, length + 1)
    shown = {
        "R": _curve(found.R_T, R, prompts),
        "L_eps": _curve(found.L_eps_T, L_eps, prompts),
        "eps": _curve(found.L_eps_T / places, L_eps / places, prompts),
        "difference": _curve(found.R_T - found.L_eps_T, R - L_eps, prompts),
        "ex_acc_err": _curve(found.excess_T, excess(R, L_eps), prompts),
    }
    undefined = int(np.isnan(found.excess_T).sum())
    note = {
        "undefined": (
            f"eps is 0 (below {SMALLEST:g} nats a token) at {undefined} of {length} places: the "
            "student makes no error on teacher contexts, so the ratio has no value"
        )
    }
    last = {
        name: {bound: values[-1] for bound, values in curve.items()}
        for name, curve in shown.items()
    }
    return {
        "prompts": prompts,
        "length": length,
        "at_length": last,
        **shown,
        **(note if undefined else {}),
    }


def _curve(value_T: Array, resampled_RT: Array, prompts: int) -> dict[str, list[float | None]]:
    if prompts > 1:
        low_T, high_T = stats.percentiles(resampled_RT, prompts)
    else:
        low_T = high_T = value_T
    return {
        "value": _plain(value_T),
        "low": _plain(low_T),
        "high": _plain(high_T),
    }


def _plain(values_T: Array) -> list[float | None]:
    return [round(float(v), DIGITS) if math.isfinite(v) else None for v in values_T]


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
        "ece": _estimate(point, low, high, prompts).model_dump(),
        "binning": f"{gaps_NB.shape[1]} bins of equal {binning}",
        "accuracy": float(np.mean(correct_N)),
        "confidence": float(np.mean(confidence_N)),
        "predictions": len(gaps_NB),
        "bins": [asdict(bin_) for bin_ in reliability(confidence_N, correct_N, binning=binning)],
    }


def mean_estimate(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean over prompts with its interval; prompts without a value are left out and not counted."""
    there = [value for value in values if value is not None]
    if not there:
        return Missing(missing="no prompt has a value").model_dump()
    mean, low, high = stats.bootstrap(np.array(there))
    return _estimate(mean, low, high, len(there)).model_dump()


def _estimate(mean: float, low: float, high: float, prompts: int) -> Estimate:
    return Estimate(
        mean=mean,
        low=round(low, DIGITS),
        high=round(high, DIGITS),
        n_prompts=prompts,
        seeds=[SEED],
        per_seed=[mean],
    )
