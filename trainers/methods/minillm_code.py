"""MiniLLM as the authors' released code computes it."""

import torch
from pydantic import Field
from torch import Tensor

from kdbench.trainers.method import Card, Context, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives import policy
from kdbench.trainers.objectives.divergences import Columns, Values, reverse_kl, word_kd
from kdbench.trainers.sources import PPO, RolloutMethod, column, with_response
from kdbench.trainers.types import Sequence


class MiniLLMCode(RolloutMethod):
    """What microsoft/LMOps@4f2a9de:minillm optimises, where it departs from its paper.

    Rewards (log p − log q)/0.5 clipped to ±100; discounted returns (γ 0.95) that count the immediate
    reward, divided by the tokens left; whitened over each mini-batch, padding included; the clip
    applies to (q_new/q_old)·w; the single-step term is not weighted by w; the plain-text loss mixes
    cross-entropy and word-level KD.

    Kept out: the second, pure-student generation that only feeds a log. Padding here means up to the
    longest response of the optimiser step (theirs: of the micro-batch on each GPU).
    """

    class Config(MethodConfig):
        """Fields of ``minillm-code``; defaults from the authors' scripts."""

        teacher_mix: float = Field(0.2, ge=0, lt=1, description="α of teacher-mixed sampling")
        gamma: float = Field(0.95, gt=0, le=1, description="discount of later rewards")
        reward_scaling: float = Field(0.5, gt=0, description="rewards are divided by it")
        reward_clip: float = Field(100.0, gt=0, description="bound on a token's reward")
        single_step: bool = Field(True, description="add the reverse-KL term at each token")
        lm_coef: float = Field(1.0, ge=0, description="weight of the plain-text loss")
        kd_ratio: float = Field(0.5, ge=0, le=1, description="word-level KD share of that loss")
        ppo: PPO = PPO()

    card = Card(
        title="MiniLLM (authors' code)",
        paper="arXiv:2306.08543",
        variant="authors' code",
        policy="on",
        cost="1 + teacher forward + plain text + sampling (÷ inner epochs)",
        teacher_logits=True,
        student_samples=True,
        plain_text=True,
    )

    def with_advantages(self, rollouts: list[Sequence]) -> list[Sequence]:
        """Adds columns ``advantage`` and ``weight``; whitening looks at all rollouts given."""
        log_q, log_p = column(rollouts, "log_q"), column(rollouts, "log_p")
        lengths = torch.tensor([len(s.response) for s in rollouts])
        mask = (torch.arange(log_q.shape[1])[None] < lengths[:, None]).to(log_q.dtype)
        rewards = mask * policy.code_rewards(
            log_q, log_p, scaling=self.config.reward_scaling, clip=self.config.reward_clip
        )
        advantage = policy.whiten(policy.code_returns(rewards, mask, gamma=self.config.gamma))
        weight = policy.importance_weight(log_q, log_p, self.config.teacher_mix)
        found = {"log_q": log_q, "weight": weight, "advantage": advantage}
        return [
            with_response(
                s, s.response, **{n: v_BL[i, : len(s.response)] for n, v_BL in found.items()}
            )
            for i, s in enumerate(rollouts)
        ]

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Policy-gradient and regulariser, or the mixed plain-text loss."""
        if stream.name == "text":
            return micro.sum(word_kd, teacher=True, kd_ratio=self.config.kd_ratio)
        return micro.sum(self.token_loss, teacher=True)

    def token_loss(
        self, student: Tensor, teacher: Tensor | None, target: Tensor, columns: Columns
    ) -> Values:
        """Clipped surrogate on (q_new/q_old)·w plus the unweighted reverse KL, (n,) each."""
        log_q = torch.log_softmax(student, -1).gather(-1, target[:, None]).squeeze(-1)
        ratio = torch.exp(log_q - columns["log_q"]) * columns["weight"]
        surrogate = policy.clipped_surrogate(ratio, columns["advantage"], self.config.ppo.clip)
        terms = reverse_kl(student, teacher, target, columns)
        loss = surrogate + terms["loss"] if self.config.single_step else surrogate
        return terms | {"loss": loss, "policy": surrogate.detach(), "ratio": ratio.detach()}
