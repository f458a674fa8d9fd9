"""Reverse KD: word-level D_KL(q ‖ p) on the data set's responses."""

from pydantic import Field

from kdbench.trainers.method import Card, Context, Dimension, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import mixed, reverse_kl
from kdbench.trainers.sources import RESPONSES, OnResponses, ResponsesConfig


class ReverseKD(OnResponses):
    """L_t = (1 − ρ)·CE_t + ρ·D_KL(q ‖ p)_t, token mean over the optimiser step.

    Source: the RKL baseline of DistiLLM (arXiv:2402.03898) and of TAID, AKL and RLKD, with ρ = 1.
    The gradient goes through q alone. Ours: the option to mix in cross-entropy.
    """

    class Config(ResponsesConfig):
        """Fields of ``rkd``."""

        kd_ratio: float = Field(1.0, gt=0, le=1, description="ρ, share of the divergence")

    card = Card(
        title="Reverse KD (word level)",
        paper="DistiLLM's RKL baseline, arXiv:2402.03898",
        variant="DistiLLM's",
        cost="1 + teacher forward",
        teacher_logits=True,
        space=(
            Dimension(name="method.kd_ratio", choices=(0.5, 1.0)),
            RESPONSES,
        ),
    )

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed mixture."""
        return micro.sum(mixed(reverse_kl, self.config.kd_ratio), teacher=True)
