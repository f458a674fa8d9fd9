"""Sequence-level KD: training on the teacher's own answers."""

from typing import Literal

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
from kdbench.trainers.objectives.divergences import cross_entropy, word_kd


class SeqKD(Method):
    """Cross-entropy on one sampled teacher response a prompt, optionally mixed with word-level KD.

    Source: Kim & Rush 2016 (arXiv:1606.07947). MiniLLM's text describes plain fine-tuning on the
    pseudo-data (``word_kd`` 0, our default); its and DistiLLM's scripts add word-level KD
    (``word_kd`` 0.5). The authors' data script, run as shipped, trains on gold answers instead; ours
    trains on what the teacher said.
    """

    class Config(MethodConfig):
        """Fields of ``seqkd``."""

        answers: Literal["sample", "greedy"] = Field(
            "sample", description="the teacher's answers: sampled (MiniLLM), or the likeliest words"
        )
        word_kd: float = Field(0.0, ge=0, le=1, description="share of the word-level KD term")

    card = Card(
        title="Sequence-level KD",
        paper="arXiv:1606.07947; MiniLLM's SeqKD baseline",
        cost="1 + one teacher answer a prompt",
        teacher_samples=True,
        space=(
            Dimension(name="method.answers", choices=("sample", "greedy")),
            Dimension(name="method.word_kd", choices=(0.0, 0.5)),
        ),
    )
    partial = True

    def needs_probabilities(self) -> bool:
        """Word-level KD does."""
        return self.config.word_kd > 0

    @property
    def asks(self) -> Responses:
        """See `Method`."""
        return "teacher-greedy" if self.config.answers == "greedy" else "teacher"

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """The step's prompts with the teacher's answers."""
        return (Stream.of("response", ctx.responses(step, self.asks)),)

    def reads(self) -> tuple[Responses, ...]:
        """The teacher's answers, where the word-level term compares them."""
        return (self.asks,) if self.config.word_kd else ()

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed cross-entropy or mixture."""
        if not self.config.word_kd:
            return micro.sum(cross_entropy, teacher=False)
        return micro.sum(word_kd, teacher=True, kd_ratio=self.config.word_kd)
