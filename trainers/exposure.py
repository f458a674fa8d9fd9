"""Exposure bias: how much a student's errors grow because it writes on its own contexts.

With p the teacher, q the student and y_<t a context of t - 1 response tokens,

    R(L)     = sum_{t<=L} E_{y_<t ~ q} D(p(.|y_<t) | q(.|y_<t))
    L eps(L) = sum_{t<=L} E_{y_<t ~ p} D(p(.|y_<t) | q(.|y_<t))
    ExAccErr(L) = (R(L) - L eps(L)) / (L eps(L)) * 100

(Arora et al. 2022, "Why Exposure Bias Matters"; Gu et al. 2024, "MiniLLM", section 3.3.) What has
ended adds nothing more. Two ways to average the samples of a prompt:

* exact: the mean over its samples at every place, ended ones counting as 0, which is the formula;
* as LMOps minillm/evaluate_exposure_bias.py (``live_offset`` 1e-3): the sum over its samples over
  the number of those still running plus the offset.

Axes: ``S`` samples of a prompt, ``P`` prompts, ``T`` places.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kdbench.trainers.objectives.divergences import forward_kl

Array = NDArray[np.float64]

SMALLEST = 1e-9
"""Nats a token; an error on teacher contexts below it leaves the ratio undefined."""


class Curves(NamedTuple):
    """Accumulated errors at L = 1 … T and the excess in percent (nan where undefined)."""

    R_T: Array
    L_eps_T: Array
    excess_T: Array


def token_errors(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """D(teacher | student) at each row of logits, (N,), in nats."""
    target = torch.zeros(len(student_NV), dtype=torch.long, device=student_NV.device)
    return forward_kl(student_NV, teacher_NV, target, {})["loss"]


def prompt_errors(
    errors_ST: ArrayLike, mask_ST: ArrayLike, *, live_offset: float | None = None
) -> Array:
    """A prompt's mean error at each place, (T,).

    Args:
        errors_ST: token errors of its samples; whatever stands where the mask is 0 is ignored.
        mask_ST: 1 where a sample has a token to score.
        live_offset: None for the exact mean over all samples, else the reference code's rule.
    """
    mask = np.asarray(mask_ST, dtype=float)
    sums = np.where(mask > 0, np.asarray(errors_ST, dtype=float), 0.0).sum(axis=0)
    return sums / (len(mask) if live_offset is None else mask.sum(axis=0) + live_offset)


def curves(student_PT: ArrayLike, teacher_PT: ArrayLike) -> Curves:
    """The three curves from prompts' mean errors on student and on teacher contexts."""
    R_T, L_eps_T = (
        np.asarray(errors, dtype=float).mean(axis=0).cumsum() for errors in (student_PT, teacher_PT)
    )
    return Curves(R_T, L_eps_T, excess(R_T, L_eps_T))


def excess(R_T: Array, L_eps_T: Array) -> Array:
    """ExAccErr in percent at each L along the last axis; nan where eps(L) is 0 (to rounding)."""
    places = np.arange(1, np.shape(L_eps_T)[-1] + 1)
    defined = L_eps_T > SMALLEST * places
    return np.where(defined, 100 * (R_T - L_eps_T) / np.where(defined, L_eps_T, 1.0), np.nan)
