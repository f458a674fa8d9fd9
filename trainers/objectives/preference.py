"""Sequence-level preference losses: the teacher's answer y⁺ preferred to the student's answer y⁻.

All functions are pure: (G,) tensors in, (G,) tensors out, one entry a pair. ``q`` and ``p`` are the
log-probabilities of whole answers under student and teacher, already divided by their lengths where
the form is length-normalised.
"""

from typing import Literal

import torch
from torch.nn import functional as F

Form = Literal["dpo", "ipo", "cpo", "simpo"]


def dpo(margin: torch.Tensor, *, beta: float) -> torch.Tensor:
    """−log σ(β·h), h = (q⁺ − p⁺) − (q⁻ − p⁻): DPKD eq. 9 (arXiv:2406.19774), teacher as reference."""
    return -F.logsigmoid(beta * margin)


def ipo(margin: torch.Tensor, *, beta: float) -> torch.Tensor:
    """(h − 1/(2β))² (Azar et al. 2023, arXiv:2310.12036, eq. 17, with τ = β)."""
    return (margin - 1 / (2 * beta)) ** 2


def cpo(
    q_win: torch.Tensor, q_lose: torch.Tensor, nll_win: torch.Tensor, *, beta: float
) -> torch.Tensor:
    """−log σ(β(q⁺ − q⁻)) + mean token NLL of y⁺ (Xu et al. 2024, arXiv:2401.08417); no reference."""
    return -F.logsigmoid(beta * (q_win - q_lose)) + nll_win


def simpo(q_win: torch.Tensor, q_lose: torch.Tensor, *, beta: float, gamma: float) -> torch.Tensor:
    """−log σ(β(q⁺ − q⁻) − γ), always on length-normalised q (Meng et al. 2024, arXiv:2405.14734)."""
    return -F.logsigmoid(beta * (q_win - q_lose) - gamma)
