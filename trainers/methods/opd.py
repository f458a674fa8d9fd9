"""OPD: fully on-policy distillation by the reverse KL."""

from typing import Literal

import torch
from pydantic import Field

from kdbench.trainers.method import Card, Context, Method, MethodConfig, Micro, Stream, singles
from kdbench.trainers.objectives import reverse_kl
from kdbench.trainers.policy import returns_after
from kdbench.trainers.responses import student_responses


class OPD(Method):
    """Reverse KL to the teacher on responses of the current student, in one of two estimators.

    ``full``: L_t = D_KL(q ‖ p)_t over the whole vocabulary at each sampled position. It ignores
    that a token also decides which positions follow: a biased estimate of ∇D_KL(q(y) ‖ p(y)).
    ``k1``: L = −Σ_t A_t·log q(y_t), A_t = Σ_{i≥t} log p(y_i)/q(y_i) held fixed: the reward-to-go
    policy gradient, unbiased, with more noise.

    As a plain loss the sampled k1 = log q(y_t)/p(y_t) has zero mean gradient at every step, and k3
    = p/q − 1 − log p/q has the *forward* KL's; neither is offered. Source: the on-policy reverse
    KL of GKD (arXiv:2306.13649, λ = 1, β = 1), TRL's DistillationTrainer, and Thinking Machines'
    "On-policy distillation" (2025), which uses the sampled reward without the reward-to-go.
    """

    class Config(MethodConfig):
        """Fields of ``opd``."""

        estimator: Literal["full", "k1"] = Field("full", description="see the class")
        temperature: float = Field(1.0, gt=0, description="of sampling; k1 is exact at 1 only")

    card = Card(
        title="On-policy distillation",
        paper="arXiv:2306.13649 (λ 1, β 1)",
        variant="full vocabulary, or k1 reward-to-go",
        policy="on",
        cost="1 + teacher forward + sampling each step",
        teacher_logits=True,
        student_samples=True,
    )

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Student responses to the step's prompts."""
        responses = student_responses(
            ctx, step, ctx.batch(step), temperature=self.config.temperature
        )
        return (singles("response", responses),)

    def loss(self, ctx: Context, stream: Stream, micro: Micro) -> torch.Tensor:
        """Summed divergence or policy-gradient surrogate."""
        if self.config.estimator == "full":
            return micro.sum(reverse_kl, teacher=True)
        log_q, log_p = micro.logprobs(), micro.teacher_logprobs()
        owner = micro.packed.owner_N
        value = torch.stack(
            [
                reward_to_go(log_q[owner == i], log_p[owner == i])
                for i in range(micro.packed.sequences)
            ]
        ).sum()
        micro.log(loss=value, k1=(log_q - log_p).sum(), nll=-log_q.sum())
        return value


def reward_to_go(log_q: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """−Σ_t A_t·log q(y_t) of one response, (L,) each; its mean gradient is that of D_KL(q ‖ p)."""
    rewards = (log_p - log_q).detach()
    return -(returns_after(rewards, length_norm=False, inclusive=True) * log_q).sum()
