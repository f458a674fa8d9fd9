"""OPD: fully on-policy distillation by the reverse KL."""

from typing import Literal

import torch
from pydantic import Field

from kdbench.trainers.method import (
    Card,
    Context,
    Dimension,
    Method,
    MethodConfig,
    MicroBatch,
    Stream,
    Sums,
)
from kdbench.trainers.objectives.divergences import reverse_kl, top_k_reverse_kl
from kdbench.trainers.objectives.policy import returns_after
from kdbench.trainers.sources import student_responses


class OPD(Method):
    """Reverse KL to the teacher on responses of the current student, in one of four estimators.

    ``full``: L_t = D_KL(q ‖ p)_t over the whole vocabulary at each sampled position. It ignores
    that a token also decides which positions follow: a biased estimate of ∇D_KL(q(y) ‖ p(y)).
    ``top-k``: the same over the teacher's ``top_k`` likeliest tokens and one bin of all others, as
    where a teacher's logits are stored in part; never above ``full``.
    ``k1``: L = −Σ_t A_t·log q(y_t), A_t = Σ_{i≥t} log p(y_i)/q(y_i) held fixed: the reward-to-go
    policy gradient, unbiased, with more noise.
    ``k3``: L = Σ_t [B_t·log q(y_t) + k3_t], k3 = p/q − 1 − log p/q at y_t, B_t = Σ_{i≥t} k3_i held
    fixed: also unbiased, since k3 has the mean of −log p/q; never negative, less noise near p = q.

    As a plain loss the sampled k1 = log q(y_t)/p(y_t) has zero mean gradient at every step, and k3
    has the *forward* KL's; neither is offered. Source: the on-policy reverse
    KL of GKD (arXiv:2306.13649, λ = 1, β = 1), TRL's DistillationTrainer, and Thinking Machines'
    "On-policy distillation" (2025), which uses the sampled reward without the reward-to-go. k1 and
    k3 are named as in Schulman, "Approximating KL Divergence" (2020). The rate of suite ``mini`` was
    found by search (docs/tuning.md).
    """

    class Config(MethodConfig):
        """Fields of ``opd``."""

        estimator: Literal["full", "top-k", "k1", "k3"] = Field("full", description="see the class")
        top_k: int = Field(32, gt=0, description="tokens of the teacher (top-k only)")
        temperature: float = Field(1.0, gt=0, description="of sampling; k1 and k3 are exact at 1")

    card = Card(
        title="On-policy distillation",
        paper="arXiv:2306.13649 (λ 1, β 1)",
        variant="full vocabulary; or top-k, k1, k3",
        policy="on",
        cost="1 + teacher forward + sampling each step",
        teacher_logits=True,
        student_samples=True,
        space=(Dimension(name="method.temperature", low=0.7, high=1.0),),
    )

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Student responses to the step's prompts."""
        temperature = self.config.temperature
        responses = student_responses(ctx, step, ctx.prompt_batch(step), temperature=temperature)
        return (Stream.of("response", responses),)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed divergence or policy-gradient surrogate."""
        if self.config.estimator == "full":
            return micro.sum(reverse_kl, teacher=True)
        if self.config.estimator == "top-k":
            return micro.sum(top_k_reverse_kl, teacher=True, k=self.config.top_k)
        log_q, log_p = micro.logprobs(), micro.teacher_logprobs()
        surrogate = reward_to_go if self.config.estimator == "k1" else reward_to_go_k3
        each = zip(micro.by_sequence(log_q), micro.by_sequence(log_p), strict=True)
        value = torch.stack([surrogate(*mine) for mine in each]).sum()
        return {"loss": value, "k1": (log_q - log_p).sum(), "nll": -log_q.sum()}


def reward_to_go(log_q: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """−Σ_t A_t·log q(y_t) of one response, (L,) each; its mean gradient is that of D_KL(q ‖ p)."""
    rewards = (log_p - log_q).detach()
    return -(returns_after(rewards, length_norm=False, inclusive=True) * log_q).sum()


def reward_to_go_k3(log_q: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """Σ_t [B_t·log q(y_t) + k3_t] of one response, (L,) each; the same mean gradient.

    Unlike k1's, the mean gradient of k3 itself is not zero, so it stays in the loss.
    """
    k3 = torch.expm1(log_p - log_q) - (log_p - log_q)
    following = returns_after(k3.detach(), length_norm=False, inclusive=True)
    return (following * log_q + k3).sum()
