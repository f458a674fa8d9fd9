"""MiniLLM's policy-gradient pieces as pure functions of one response's log-probabilities.

Shapes: (L,) for one response of L tokens, or (B, L) padded on the right with a mask. ``log_q`` is the
student's, ``log_p`` the teacher's log-probability of the sampled tokens.
"""

import math

import torch


def importance_weight(log_q: torch.Tensor, log_p: torch.Tensor, alpha: float) -> torch.Tensor:
    """w_t = q / ((1 − α) q + α p), the per-token weight of teacher-mixed sampling (MiniLLM eq. 6).

    Computed from log p/q, so that a student probability of e⁻⁹⁰⁰ is no division by zero.
    """
    if not alpha:
        return torch.ones_like(log_q)
    gap = log_p - log_q + math.log(alpha)
    return torch.exp(-torch.logaddexp(torch.full_like(gap, math.log1p(-alpha)), gap))


def returns_after(rewards: torch.Tensor, *, length_norm: bool, inclusive: bool) -> torch.Tensor:
    """R_{t+1} (or R_t if ``inclusive``) of one response: the sum or mean of the rewards that follow.

    MiniLLM eq. 7 (arXiv:2306.08543). The paper prints the divisor L − t − 1, which is zero one token
    before the end; the number of summands, L − t, is meant. Zero where nothing follows.

    Args:
        rewards: log p/q at each token, (L,).
        length_norm: mean instead of sum.
        inclusive: count the token's own reward (no single-step decomposition).
    """
    length = len(rewards)
    from_here = rewards.flip(0).cumsum(0).flip(0)
    total = from_here if inclusive else from_here - rewards
    if not length_norm:
        return total
    left = torch.arange(length, 0, -1, dtype=rewards.dtype, device=rewards.device)
    return total / (left if inclusive else (left - 1).clamp_min(1))


def clipped_surrogate(ratio: torch.Tensor, advantage: torch.Tensor, epsilon: float) -> torch.Tensor:
    """max(−A·r, −A·clip(r, 1 − ε, 1 + ε)), the PPO loss a token (Schulman et al. 2017, eq. 7)."""
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return torch.maximum(-advantage * ratio, -advantage * clipped)


# -- as the authors' code computes them (microsoft/LMOps@4f2a9de, minillm/losses.py) ---------------


def code_rewards(
    log_q: torch.Tensor, log_p: torch.Tensor, *, scaling: float, clip: float
) -> torch.Tensor:
    """(log p − log q) / scaling, clipped to ±clip; the authors scale by 0.5, that is, double it."""
    return ((log_p - log_q) / scaling).clamp(-clip, clip)


def code_returns(rewards_BL: torch.Tensor, mask_BL: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """G_t / (tokens left, this one included), G_t = Σ_{i≥t} γ^(i−t) r_i; zero rewards at padding.

    The immediate reward is part of G_t although the single-step term counts it already.
    """
    returns = torch.zeros_like(rewards_BL)
    running = torch.zeros_like(rewards_BL[:, 0])
    for t in range(rewards_BL.shape[1] - 1, -1, -1):
        running = rewards_BL[:, t] + gamma * running
        returns[:, t] = running
    left = mask_BL.flip(1).cumsum(1).flip(1).clamp_min(1)
    return returns / left


def whiten(values_BL: torch.Tensor) -> torch.Tensor:
    """(x − mean) / sqrt(variance + 1e-8) over **all** positions, padding included, n − 1 divisor."""
    return (values_BL - values_BL.mean()) * torch.rsqrt(values_BL.var() + 1e-8)
