"""Generalised Jensen–Shannon divergence on the data set's responses."""

from pydantic import Field

from kdbench.trainers.method import Card, Context, Dimension, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import generalised_jsd, mixed
from kdbench.trainers.sources import RESPONSES, OnResponses, ResponsesConfig


class JSD(OnResponses):
    """L_t = β·D_KL(p ‖ m) + (1 − β)·D_KL(q ‖ m), m = β·p + (1 − β)·q.

    β = 0 is D_KL(p ‖ q), β = 1 is D_KL(q ‖ p).

    Source: GKD, Agarwal et al. 2024, arXiv:2306.13649, eq. 1, with TRL's ends (the formula itself
    is 0 there). β = 0.5 is the ordinary JSD; DistiLLM's baseline has β = 0.1 (its ``lam`` 0.9).
    """

    class Config(ResponsesConfig):
        """Fields of ``jsd``."""

        beta: float = Field(0.5, ge=0, le=1, description="β, weight of the teacher in m")
        kd_ratio: float = Field(1.0, gt=0, le=1, description="ρ, share against cross-entropy")

    card = Card(
        title="Generalised JSD",
        paper="arXiv:2306.13649",
        variant="supervised GKD",
        cost="1 + teacher forward",
        teacher_logits=True,
        space=(
            Dimension(name="method.beta", low=0.1, high=0.9),
            RESPONSES,
        ),
    )

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed divergence."""
        ratio = self.config.kd_ratio
        divergence = generalised_jsd if ratio == 1 else mixed(generalised_jsd, ratio)
        return micro.sum(divergence, teacher=True, beta=self.config.beta)
