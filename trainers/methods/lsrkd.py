"""LsrKD, known to us from its abstract: label smoothing as distillation without a teacher."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import Columns, Values


class LsrKD(Method):
    """L_t = CE_t + λ·T²·D_KL(u ‖ q_T)_t, q_T softened by T.

    u is a uniform teacher with *teacher correction*: a constant share for the right token, the rest
    spread evenly over the others.

    Source: arXiv:2009.11545, from the abstract, which is about classification; the form at token
    level and all values are ours.
    """

    class Config(MethodConfig):
        """Fields of ``lsrkd``; all values ours."""

        weight: float = Field(0.1, ge=0, description="λ, weight of the KD term")
        temperature: float = Field(2.0, gt=0, description="T, softens the student")
        correct: float = Field(0.5, gt=0, lt=1, description="share of the right token in u")

    card = Card(
        title="LsrKD",
        paper="arXiv:2009.11545",
        variant="from the abstract",
        cost="1",
        same_tokenizer=False,
    )

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed cross-entropy and smoothing."""
        return micro.sum(smoothed, teacher=False, **self.config.model_dump())


def smoothed(
    student: Tensor,
    teacher: Tensor | None,
    target: Tensor,
    columns: Columns,
    *,
    weight: float,
    temperature: float,
    correct: float,
) -> Values:
    """Cross-entropy plus λT²·D(u|q_T), (n,) each; u spreads over the tokens q does not rule out."""
    own = target[:, None]
    log_q = functional.log_softmax(student, -1)
    soft = functional.log_softmax(student / temperature, -1)
    allowed = soft.isfinite()
    others = (1 - correct) / (allowed.sum(-1, keepdim=True) - 1).clamp_min(1)
    u = (others * allowed).scatter(-1, own, correct)
    cross = -(u * torch.where(allowed | (u > 0), torch.where(u > 0, soft, 0.0), 0.0)).sum(-1)
    kl = cross + torch.where(u > 0, u * torch.where(u > 0, u, 1.0).log(), 0.0).sum(-1)
    nll = -log_q.gather(-1, own).squeeze(-1)
    value = nll + weight * temperature**2 * kl
    return {"loss": value, "smoothing": kl.detach(), "nll": nll.detach()}
