"""GKD: generalised JSD on a mixture of the student's own and other responses."""

from pydantic import Field

from kdbench.trainers.method import (
    Card,
    Context,
    Dimension,
    Method,
    MethodConfig,
    MicroBatch,
    Responses,
    Stream,
    Sums,
)
from kdbench.trainers.objectives.divergences import generalised_jsd
from kdbench.trainers.sources import drawn, student_responses


class GKD(Method):
    """With probability λ a batch is sampled from the student, else it is the data set's (or the teacher's);
    L_t = JSD_β(p ‖ q)_t, no gradient through sampling.

    Source: Agarwal et al., ICLR 2024, arXiv:2306.13649, algorithm 1; defaults λ 0.5, β 0.5,
    sampling temperature 0.9 of TRL 1.16's GKD trainer (the paper searches them; loss temperature
    1). The branch is drawn from a global counter.
    """

    class Config(MethodConfig):
        """Fields of ``gkd``."""

        student_share: float = Field(
            0.5, ge=0, le=1, description="λ, probability of a student batch"
        )
        beta: float = Field(0.5, ge=0, le=1, description="β: 0 forward KL, 1 reverse KL")
        temperature: float = Field(0.9, gt=0, description="of the student's sampling")
        others: Responses = Field("data", description="responses of other batches, as elsewhere")

    card = Card(
        title="GKD",
        paper="arXiv:2306.13649",
        variant="paper, TRL's defaults",
        policy="mixed",
        cost="1 + teacher forward + sampling (× λ)",
        teacher_logits=True,
        student_samples=True,
        space=(
            Dimension(name="method.student_share", low=0.25, high=1.0),
            Dimension(name="method.beta", low=0.1, high=0.9),
            Dimension(name="method.others", choices=("data", "teacher-greedy")),
        ),
    )

    @property
    def asks(self) -> Responses:
        """See `Method`."""
        return self.config.others

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """A batch of student responses, or one of the data set's or the teacher's."""
        if drawn(ctx.seed, step, 13)[0] < self.config.student_share:
            prompts, temperature = ctx.prompt_batch(step), self.config.temperature
            batch = student_responses(ctx, step, prompts, temperature=temperature)
        else:
            batch = ctx.responses(step, self.asks)
        return (Stream.of("response", batch),)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed divergence."""
        return micro.sum(generalised_jsd, teacher=True, beta=self.config.beta)
