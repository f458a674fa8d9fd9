"""Total variation distance on the data set's responses."""

from kdbench.trainers.method import Card, Context, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import total_variation
from kdbench.trainers.sources import RESPONSES, OnResponses, ResponsesConfig


class TVD(OnResponses):
    """L_t = ½·Σ_v |p(v) − q(v)|, token mean over the optimiser step.

    Source: f-distill, Wen et al., ACL 2023, arXiv:2307.15190, which averages this over student and
    teacher samples (sequence to sequence); here, as in DistiLLM's and RLKD's baselines, on the
    data set.
    """

    class Config(ResponsesConfig):
        """Fields of ``tvd``."""

    card = Card(
        title="Total variation",
        paper="arXiv:2307.15190",
        variant="DistiLLM's, on the data set",
        cost="1 + teacher forward",
        teacher_logits=True,
        space=(RESPONSES,),
    )

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed distance."""
        return micro.sum(total_variation, teacher=True)
