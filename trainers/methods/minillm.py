"""MiniLLM: policy-gradient minimisation of the sequence-level reverse KL, as the paper derives it."""

import torch
from pydantic import Field
from torch import Tensor

from kdbench.trainers.method import Card, Context, Dimension, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import Columns, Values, cross_entropy, reverse_kl
from kdbench.trainers.objectives.policy import clipped_surrogate, importance_weight, returns_after
from kdbench.trainers.sources import PPO, RolloutMethod, with_response
from kdbench.trainers.types import Sequence


class MiniLLM(RolloutMethod):
    """min D_KL(q ‖ p) over answers, with the paper's three devices.

    ∇L = −E Σ_t w_t [∇ Σ_v q(v) log p(v)/q(v) + R_{t+1} ∇q(y_t)/q(y_t)], answers sampled token by token
    from (1 − α) q + α p, w_t = q/((1 − α) q + α p) at collection time, R_{t+1} the mean of
    log p/q over the tokens that follow; PPO clip ε on q_new/q_old; plus ``lm_coef`` times the
    cross-entropy on plain text.

    Source: Gu et al., ICLR 2024, arXiv:2306.08543, eq. 4–8 and algorithm 1. Ours: the clip applies to
    q_new/q_old alone with w_t outside; sums are divided by the number of response tokens of the
    optimiser step. What the authors' code computes instead is ``minillm-code``.
    """

    class Config(MethodConfig):
        """Fields of ``minillm``; the switches are the paper's ablations."""

        teacher_mix: float = Field(
            0.2, ge=0, lt=1, description="α of teacher-mixed sampling; 0 off"
        )
        length_norm: bool = Field(True, description="mean instead of sum of the following rewards")
        single_step: bool = Field(True, description="exact expectation for the immediate reward")
        lm_coef: float = Field(1.0, ge=0, description="weight of the plain-text loss; 0 off")
        ppo: PPO = PPO()

    card = Card(
        title="MiniLLM",
        paper="arXiv:2306.08543",
        policy="on",
        cost="1 + teacher forward + plain text + sampling (÷ inner epochs)",
        teacher_logits=True,
        student_samples=True,
        plain_text=True,
        space=(
            Dimension(name="method.teacher_mix", low=0.0, high=0.4),
            Dimension(name="method.lm_coef", choices=(0.0, 0.1, 1.0)),
        ),
    )

    def with_advantages(self, rollouts: list[Sequence]) -> list[Sequence]:
        """Adds columns ``advantage`` and ``weight``, each rollout by itself."""
        norm, inclusive = self.config.length_norm, not self.config.single_step
        found = []
        for s in rollouts:
            log_q, log_p = s.columns["log_q"], s.columns["log_p"]
            advantage = returns_after(log_p - log_q, length_norm=norm, inclusive=inclusive)
            weight = importance_weight(log_q, log_p, self.config.teacher_mix)
            columns = {"log_q": log_q, "weight": weight, "advantage": advantage}
            found.append(with_response(s, s.response, **columns))
        return found

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Policy-gradient and single-step terms, or cross-entropy on text."""
        if stream.name == "text":
            return micro.sum(cross_entropy, teacher=False)
        return micro.sum(self.token_loss, teacher=True)

    def token_loss(
        self, student: Tensor, teacher: Tensor | None, target: Tensor, columns: Columns
    ) -> Values:
        """The surrogate whose gradient is the one in the class docstring, (n,) each."""
        terms = reverse_kl(student, teacher, target, columns)
        log_q = torch.log_softmax(student, -1).gather(-1, target[:, None]).squeeze(-1)
        ratio = torch.exp(log_q - columns["log_q"])
        policy = columns["weight"] * clipped_surrogate(
            ratio, columns["advantage"], self.config.ppo.clip
        )
        loss = policy + columns["weight"] * terms["loss"] if self.config.single_step else policy
        return terms | {"loss": loss, "policy": policy.detach(), "ratio": ratio.detach()}
