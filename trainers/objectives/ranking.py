"""Differentiable ranks and rank correlation, one set of values a row."""

import torch
from torch import Tensor

_FAR = 1e4
"""How far below the smallest value masked places are put: they never mix with the others."""


def decreasing_fit(values_nk: Tensor) -> Tensor:
    """The nearest non-increasing sequence of each row in the least-squares sense, (n, k).

    Isotonic regression in closed form, v_i = max_{b≥i} min_{a≤i} mean(y_a … y_b) (Robertson,
    Wright & Dykstra 1988, 1.4), which costs k² a row but is batched and differentiable as it
    stands.
    """
    count = values_nk.shape[-1]
    sums = torch.nn.functional.pad(values_nk.cumsum(-1), (1, 0))
    first = torch.arange(count, device=values_nk.device)
    length = first[None, :] - first[:, None] + 1  # [a, b]
    means = (sums[:, None, 1:] - sums[:, :-1, None]) / length.clamp_min(1)
    means = means.masked_fill(length < 1, torch.inf)
    # running minimum over a ≤ i for every b, then maximum over b ≥ i
    low = means.cummin(dim=1).values
    return low.masked_fill(length < 1, -torch.inf).amax(dim=2)


def soft_rank(values_nk: Tensor, *, strength: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Soft ascending ranks (Blondel et al. 2020, arXiv:2002.08871, L2): 1 for the smallest.

    Args:
        values_nk: values, (n, k).
        strength: regularisation; ranks are exact as it goes to 0.
        mask: (n, k), False for places that do not take part (their rank is 0); the others keep
            ranks 1 … their number.
    """
    count = values_nk.shape[-1]
    theta = values_nk / strength
    if mask is not None:
        low = theta.masked_fill(~mask, torch.inf).amin(-1, keepdim=True)
        place = torch.arange(count, device=theta.device) * _FAR
        theta = torch.where(mask, theta, (low - _FAR - place).detach())
    ordered, order = theta.sort(dim=-1, descending=True)
    weights = torch.arange(count, 0, -1, dtype=theta.dtype, device=theta.device)
    ranks = (ordered - decreasing_fit(ordered - weights)).gather(-1, order.argsort(-1))
    if mask is None:
        return ranks
    return torch.where(mask, ranks - (~mask).sum(-1, keepdim=True), 0.0)


def spearman(one_nk: Tensor, other_nk: Tensor, mask: Tensor) -> Tensor:
    """Pearson correlation of two rows of ranks over the places of the mask, (n,)."""
    mask = mask.to(one_nk.dtype)
    count = mask.sum(-1, keepdim=True).clamp_min(1)

    def unit(x: Tensor) -> Tensor:
        centred = (x - (x * mask).sum(-1, keepdim=True) / count) * mask
        return centred * torch.rsqrt(centred.square().sum(-1, keepdim=True) + 1e-12)

    return (unit(one_nk) * unit(other_nk)).sum(-1)
