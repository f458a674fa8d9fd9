"""Word-level forward KD on the data set's responses (the papers' "KD")."""

from pydantic import Field

from kdbench.trainers.method import Card, Context, Dimension, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import word_kd
from kdbench.trainers.sources import RESPONSES, OnResponses, ResponsesConfig


class ForwardKD(OnResponses):
    """L_t = (1 − ρ)·CE_t + ρ·D_KL(p ‖ q)_t, token mean over the optimiser step.

    Source: Hinton et al. 2015 (arXiv:1503.02531) as used by MiniLLM (ρ = 0.5) and DistiLLM (ρ = 1).
    Their code minimises the cross-entropy Σ −p log q, which has the same gradient; we log the true
    divergence. No temperature.
    """

    class Config(ResponsesConfig):
        """Fields of ``fkd``."""

        kd_ratio: float = Field(0.5, gt=0, le=1, description="ρ, share of the KD term")

    card = Card(
        title="Forward KD (word level)",
        paper="arXiv:1503.02531; MiniLLM's KD baseline, arXiv:2306.08543",
        variant="MiniLLM's",
        cost="1 + teacher forward",
        teacher_logits=True,
        space=(
            Dimension(name="method.kd_ratio", choices=(0.5, 1.0)),
            RESPONSES,
        ),
    )
    partial = True

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed mixture."""
        return micro.sum(word_kd, teacher=True, kd_ratio=self.config.kd_ratio)
