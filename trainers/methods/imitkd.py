"""ImitKD: forward KL on the student's own responses."""

from pydantic import Field

from kdbench.trainers.method import (
    Card,
    Context,
    Dimension,
    Method,
    MethodConfig,
    MicroBatch,
    Stream,
    Sums,
)
from kdbench.trainers.objectives.divergences import forward_kl
from kdbench.trainers.sources import drawn, student_responses


class ImitKD(Method):
    """L_t = D_KL(p ‖ q)_t on responses sampled from the current student; no gradient through sampling.

    Source: Lin et al., EMNLP 2020 (arXiv:2009.07253), as DistiLLM's baseline words it, which mixes
    data and student responses half by half in the paper (``student_share`` 0.5) and uses student
    responses only in the code (1). Strictly on-policy: DistiLLM's code trains on a batch of its
    replay buffer instead.
    """

    class Config(MethodConfig):
        """Fields of ``imitkd``."""

        student_share: float = Field(1.0, ge=0, le=1, description="probability of a student batch")

    card = Card(
        title="ImitKD",
        paper="arXiv:2009.07253",
        variant="DistiLLM's, without replay",
        policy="on",
        cost="1 + teacher forward + sampling each step",
        teacher_logits=True,
        student_samples=True,
        space=(Dimension(name="method.student_share", low=0.25, high=1.0),),
    )

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Student responses to the step's prompts (or, sometimes, the data set's)."""
        if drawn(ctx.seed, step, 12)[0] < self.config.student_share:
            return (Stream.of("response", student_responses(ctx, step, ctx.prompt_batch(step))),)
        return (Stream.of("response", ctx.batch(step)),)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed divergence."""
        return micro.sum(forward_kl, teacher=True)
