"""Skew divergences with a skew of its own in every row."""

import torch
from torch import Tensor

from kdbench.trainers.objectives.divergences import Values, _dot, _log_both, _logged


def skewed(
    student: Tensor, teacher: Tensor | None, target: Tensor, alpha: Tensor, *, reverse: bool
) -> Values:
    """D(p | alpha p + (1-alpha) q) or, reversed, D(q | (1-alpha) p + alpha sg(q)), (n,) each.

    As DistiLLM-2's code has them (distillm-2@fe4cf9b): q inside the reverse mixture is held fixed.

    Args:
        student: logits (n, V).
        teacher: logits (n, V).
        target: ids (n,), for the log.
        alpha: skew of each row in (0, 1), (n,).
        reverse: which of the two.
    """
    log_p, log_q = _log_both(student, teacher)
    one, other = (log_q, log_p) if reverse else (log_p, log_q)
    inside = log_q.detach() if reverse else log_p
    # the mixture is alpha * inside + (1 - alpha) * other; a floor keeps gradients of log 0 finite
    floor = torch.finfo(student.dtype).min / 4
    share = alpha.to(student.dtype)[:, None]
    mixed = torch.logaddexp(
        inside.clamp_min(floor) + share.log(), other.clamp_min(floor) + torch.log1p(-share)
    )
    ruled_out = torch.isneginf(inside) & torch.isneginf(other)
    gap = torch.where(torch.isneginf(one), 0.0, one) - torch.where(ruled_out, -torch.inf, mixed)
    value = _dot(one.exp(), gap)
    name = "skew_reverse_kl" if reverse else "skew_forward_kl"
    return {"loss": value, name: value.detach(), "nll": _logged(student, target)}
