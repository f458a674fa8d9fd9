"""MrKD, known to us from its abstract: distillation from copies of the student along its own way."""

from collections.abc import Sequence as Seq
from typing import Any

import torch
from pydantic import Field

from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import Columns, Values, cross_entropy, forward_kl
from kdbench.trainers.teacher import TeacherSide


class MrKD(Method):
    """L_t = CE_t + λ·T²·D_KL(m_T ‖ q_T)_t, m a copy of the student saved earlier, both softened by T.

    A copy is taken every ``every`` steps, the first before training; the newest ``copies`` are kept
    and asked in turn, one a step.

    Source: arXiv:2009.11545, from the abstract, which is about classification; the form at token
    level, the turns and all values are ours. Copies cost memory, one whole student each on every
    process.
    """

    class Config(MethodConfig):
        """Fields of ``mrkd``; all values ours."""

        weight: float = Field(0.5, ge=0, description="λ, weight of the KD term")
        temperature: float = Field(2.0, gt=0, description="T, softens both")
        every: int = Field(100, gt=0, description="steps between copies")
        copies: int = Field(2, gt=0, description="copies kept")

    card = Card(
        title="MrKD",
        paper="arXiv:2009.11545",
        variant="from the abstract",
        cost="1 + forward of an old student",
        same_tokenizer=False,
    )

    memory: Seq[TeacherSide] = ()
    turn = 0
    _stored: Seq[dict[str, torch.Tensor]] = ()

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """The step's training examples; now and then a new copy."""
        if self._stored:
            self.memory = [ctx.copy_student(weights) for weights in self._stored]
            self._stored = ()
        if step % self.config.every == 0:
            self.memory = [*self.memory, ctx.copy_student()][-self.config.copies :]
        self.turn = step % len(self.memory)
        return (Stream.of("response", ctx.batch(step)),)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed cross-entropy and divergence from the copy whose turn it is."""
        settings = {"weight": self.config.weight, "temperature": self.config.temperature}
        return micro.sum(remembered, teacher=self.memory[self.turn], **settings)

    def state_dict(self) -> dict[str, Any]:
        """Weights of the copies."""
        return {"memory": [m.weights() for m in self.memory] or self._stored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps the weights until the next window makes models of them."""
        self._stored = list(state["memory"])


def remembered(
    student: torch.Tensor,
    teacher: torch.Tensor | None,
    target: torch.Tensor,
    columns: Columns,
    *,
    weight: float,
    temperature: float,
) -> Values:
    """Cross-entropy plus λT²·D(m_T|q_T), (n,) each; ``teacher`` is the copy."""
    terms = forward_kl(student, teacher, target, columns, temperature=temperature)
    nll = cross_entropy(student, teacher, target, columns)["loss"]
    value = nll + weight * temperature**2 * terms["loss"]
    return {"loss": value, "memory_kl": terms["forward_kl"], "nll": nll.detach()}
