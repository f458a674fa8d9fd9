"""RLKD: agreement of rankings over the likeliest tokens, added to a divergence."""

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives import divergences as objectives
from kdbench.trainers.objectives.divergences import Columns, TokenObjective, Values
from kdbench.trainers.objectives.ranking import soft_rank, spearman

DIVERGENCES: dict[str, TokenObjective] = {
    "fkl": objectives.forward_kl,
    "rkl": objectives.reverse_kl,
    "jsd": partial(objectives.generalised_jsd, beta=0.5),
    "tvd": objectives.total_variation,
    "akl": objectives.adaptive_kl,
}


class RLKD(Method):
    """L_t = D(p, q)_t + w·[1 − Spearman(softrank z_p, softrank z_q)] over top-k(p) ∪ top-k(q).

    Source: RLKD (Ranking Loss KD), COLING 2025, arXiv:2409.12545, w = 2, soft ranks of strength 1
    and k = 5 for down-stream data. Ours: the union is taken at each position (their code takes one
    over the whole batch), and soft ranks come from a closed form instead of a compiled library.
    """

    class Config(MethodConfig):
        """Fields of ``rlkd``."""

        divergence: Literal["fkl", "rkl", "jsd", "tvd", "akl"] = Field(
            "fkl", description="what the ranking loss is added to"
        )
        k: int = Field(5, gt=0, description="likeliest tokens of each model")
        weight: float = Field(2.0, ge=0, description="w, weight of the ranking loss")
        strength: float = Field(1.0, gt=0, description="regularisation of the soft ranks")

    card = Card(
        title="Ranking-loss KD",
        paper="arXiv:2409.12545",
        cost="1 + teacher forward + ranks",
        teacher_logits=True,
    )

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed divergence and ranking loss."""
        settings = self.config.model_dump() | {"divergence": DIVERGENCES[self.config.divergence]}
        return micro.sum(ranked, teacher=True, **settings)


def ranked(
    student: Tensor,
    teacher: Tensor | None,
    target: Tensor,
    columns: Columns,
    *,
    divergence: TokenObjective,
    k: int = 5,
    weight: float = 2.0,
    strength: float = 1.0,
) -> Values:
    """A divergence plus the ranking loss, (n,) each. Tokens that a model rules out are not ranked."""
    terms = divergence(student, teacher, target, columns)
    assert teacher is not None  # the divergence has refused it
    k = min(k, student.shape[-1])
    chosen = torch.cat([teacher.topk(k, -1).indices, student.topk(k, -1).indices], -1)
    chosen = chosen.sort(-1).values
    z_q, z_p = student.gather(-1, chosen), teacher.gather(-1, chosen)
    mask = z_q.isfinite() & z_p.isfinite()
    mask[:, 1:] &= chosen[:, 1:] != chosen[:, :-1]
    z_q, z_p = (torch.where(z.isfinite(), z, 0.0) for z in (z_q, z_p))
    rank = partial(soft_rank, strength=strength, mask=mask)
    loss = 1 - spearman(rank(z_p), rank(z_q), mask)
    return terms | {"loss": terms["loss"] + weight * loss, "ranking": loss.detach()}
