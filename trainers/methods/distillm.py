"""DistiLLM: skew KL with adaptive, off-policy use of the student's responses."""

from typing import Any, Literal

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
from kdbench.trainers.objectives.divergences import cross_entropy, skew_forward_kl, skew_reverse_kl
from kdbench.trainers.sources import drawn, plain_text, replayed, student_responses
from kdbench.trainers.types import Sequence


class DistiLLM(Method):
    """SKL: D_KL(p ‖ αp + (1−α)q), or SRKL: D_KL(q ‖ (1−α)p + αq), plus ``lm_coef``·CE on plain text.

    With r uniform in [0, 1) at fraction s of the budget: if r < φ(1−s), or r < φ while the buffer
    is not full, the batch is sampled from the student and pushed; else if r < φ it is drawn from
    the buffer; else it is the data set's. φ grows by ``threshold_step`` whenever the development
    loss is ``loss_rise`` above the one at which it last grew.

    Source: Ko et al., ICML 2024, arXiv:2402.03898, algorithm 1, and jongwooko/distillm@d47e77f.
    Ours: one buffer and one draw for all ranks; the first response token and the end token of
    student responses are targets (their buffer stores labels unshifted and without end token).
    """

    class Config(MethodConfig):
        """Fields of ``distillm``; defaults from the authors' GPT-2 base script."""

        divergence: Literal["skl", "srkl"] = Field("skl", description="skewed divergence")
        alpha: float = Field(0.1, ge=0, lt=1, description="α, skew")
        threshold: float = Field(0.0, ge=0, le=1, description="φ at the start")
        threshold_step: float = Field(0.1, ge=0, le=1, description="what φ grows by")
        loss_rise: float = Field(0.1, description="rise of the development loss that lets φ grow")
        capacity: int = Field(1000, gt=0, description="responses the buffer holds, over all ranks")
        schedule: Literal["decreasing", "constant", "increasing"] = Field(
            "decreasing", description="share of fresh responses over training"
        )
        lm_coef: float = Field(1.0, ge=0, description="weight of the plain-text loss")

    card = Card(
        title="DistiLLM",
        paper="arXiv:2402.03898",
        variant="authors' code, labels corrected",
        policy="mixed",
        cost="1 + teacher forward + plain text + sampling (× φ, falling)",
        teacher_logits=True,
        student_samples=True,
        plain_text=True,
        space=(
            Dimension(name="method.alpha", low=0.05, high=0.3),
            Dimension(name="method.divergence", choices=("skl", "srkl")),
            Dimension(name="method.threshold", low=0.0, high=0.8),
        ),
    )

    remembers = ("replay", "threshold", "last_loss")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.replay: list[Sequence] = []
        self.threshold = float(config.threshold)
        self.last_loss: float | None = None

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Fresh student responses, replayed ones, or the data set's; and plain text."""
        batch = ctx.batch(step)
        (r,) = drawn(ctx.seed, step, 14)
        if r < self.threshold:
            room = len(self.replay) < self.config.capacity
            s = ctx.progress
            fresh = {"decreasing": 1 - s, "constant": 0.5, "increasing": s}[self.config.schedule]
            if r < self.threshold * fresh or room:
                batch = student_responses(ctx, step, ctx.prompt_batch(step))
                self.replay = [*self.replay, *batch][-self.config.capacity :]
            else:
                batch = replayed(self.replay, ctx.seed, step, len(batch))
        return (Stream.of("response", batch), *plain_text(ctx, step, self.config.lm_coef))

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed skew divergence, or cross-entropy on text."""
        if stream.name == "text":
            return micro.sum(cross_entropy, teacher=False)
        divergence = skew_forward_kl if self.config.divergence == "skl" else skew_reverse_kl
        return micro.sum(divergence, teacher=True, alpha=self.config.alpha)

    def on_evaluation(self, ctx: Context, metrics: dict[str, float]) -> None:
        """Adapts φ to the development loss."""
        loss = metrics["dev_loss"]
        if self.last_loss is None:
            self.last_loss = loss
        elif loss >= self.last_loss + self.config.loss_rise:
            self.threshold = min(1.0, self.threshold + self.config.threshold_step)
            self.last_loss = loss
