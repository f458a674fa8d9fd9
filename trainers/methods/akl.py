"""AKL: forward and reverse KL, weighted by where the two distributions differ."""

from pydantic import Field

from kdbench.trainers.method import Card, Context, Dimension, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import adaptive_kl
from kdbench.trainers.sources import RESPONSES, OnResponses, ResponsesConfig


class AdaptiveKL(OnResponses):
    """L_t = g_h/(g_h+g_t)·D_KL(p ‖ q) + g_t/(g_h+g_t)·D_KL(q ‖ p), g = Σ|p − q| over head and tail.

    The head is the largest prefix of the tokens, sorted by p, of mass at most μ (the first token
    always belongs to it). The weights carry no gradient.

    Source: Wu et al., COLING 2025, arXiv:2404.02657. Ours: the value 0 where p = q (their code:
    0/0).
    """

    class Config(ResponsesConfig):
        """Fields of ``akl``."""

        mu: float = Field(0.5, gt=0, lt=1, description="μ, teacher mass of the head (paper)")

    card = Card(
        title="Adaptive KL",
        paper="arXiv:2404.02657",
        cost="1 + teacher forward",
        teacher_logits=True,
        space=(
            Dimension(name="method.mu", low=0.2, high=0.8),
            RESPONSES,
        ),
    )

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed divergence."""
        return micro.sum(adaptive_kl, teacher=True, mu=self.config.mu)
