"""Weighted forward plus reverse KL on the data set's responses."""

from pydantic import Field

from kdbench.trainers.method import Card, Context, Dimension, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import symmetric_kl
from kdbench.trainers.sources import RESPONSES, OnResponses, ResponsesConfig


class SymmetricKL(OnResponses):
    """L_t = w·D_KL(p ‖ q) + (1 − w)·D_KL(q ‖ p), token mean over the optimiser step.

    Source: DistiLLM's ``symmetric`` baseline (jongwooko/distillm@d47e77f), w = 0.1.
    """

    class Config(ResponsesConfig):
        """Fields of ``sym-kl``."""

        forward_weight: float = Field(0.1, ge=0, le=1, description="w, share of the forward KL")

    card = Card(
        title="Symmetric KL",
        paper="DistiLLM's baseline, arXiv:2402.03898",
        variant="authors' code",
        cost="1 + teacher forward",
        teacher_logits=True,
        space=(
            Dimension(name="method.forward_weight", low=0.1, high=0.9),
            RESPONSES,
        ),
    )

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed divergence."""
        weight = self.config.forward_weight
        return micro.sum(symmetric_kl, teacher=True, forward_weight=weight)
