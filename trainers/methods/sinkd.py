"""SinKD, adapted from encoders: batch-wise Sinkhorn distance added to KD; on language models ours."""

from functools import partial

import torch
from pydantic import Field

from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import shared, word_kd
from kdbench.trainers.objectives.sinkhorn import sinkhorn_cost
from kdbench.trainers.sources import with_constants
from kdbench.trainers.types import Sequence


class SinKD(Method):
    """L = (1−ρ)·CE + ρ·D_KL(p ‖ q) + w·Σ_ij P_ij D_ij / n, D_ij = ‖q_i − p_j‖₁ at temperature 2.

    P comes from 20 row-and-column normalisations of exp(−D/ε).

    Source: Cui et al., COLING 2024, arXiv:2402.17110, and SinKD@1ffac90, where i and j are the
    samples of a classification batch (its generative scripts use KL only). Ours: the rows are the
    target tokens of a fixed group of ``group`` sequences, at most ``rows`` consecutive ones
    compared with each other; a group counts once, with token means inside; w on the mean over rows
    (theirs, 0.8 × 0.0008 on the sum over a batch of 16, is about 0.01 in that unit); KD at
    temperature 1 (theirs: 3).
    """

    class Config(MethodConfig):
        """Fields of ``sinkd``; ε, temperature and rounds are the paper's."""

        kd_ratio: float = Field(0.8, ge=0, le=1, description="ρ, share of the KD term (paper's α)")
        weight: float = Field(0.8, ge=0, description="w, weight of the Sinkhorn term (paper's β)")
        temperature: float = Field(2.0, gt=0, description="of the Sinkhorn term's softmaxes")
        epsilon: float = Field(0.1, gt=0, description="ε, entropic regularisation")
        rounds: int = Field(20, gt=0, description="normalisations")
        group: int = Field(4, gt=0, description="sequences of a group")
        rows: int = Field(64, gt=1, description="target tokens compared with each other")

    card = Card(
        title="SinKD",
        paper="arXiv:2402.17110",
        variant="adapted from encoders",
        cost="1 + teacher forward + Sinkhorn",
        teacher_logits=True,
    )

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """The step's training examples in fixed groups."""
        batch, size = ctx.batch(step), self.config.group
        groups = tuple(_grouped(batch[i : i + size], i) for i in range(0, len(batch), size))
        return (Stream("response", groups, "group"),)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Token means of CE and KD plus the Sinkhorn term, summed over groups."""
        sums = micro.sum(shared(word_kd), teacher=True, kd_ratio=self.config.kd_ratio)
        value, sinkhorn = sums["loss"], torch.zeros_like(sums["loss"])
        group_N = micro.packed.columns["group"]
        settings = {n: getattr(self.config, n) for n in ("temperature", "epsilon", "rounds")}
        for number in group_N.unique():
            rows = (group_N == number).nonzero().squeeze(-1)
            for part in rows.split(self.config.rows):
                cost = micro.together(partial(sinkhorn_cost, **settings), part) / len(rows)
                value = value + self.config.weight * cost
                sinkhorn = sinkhorn + cost
        return sums | {"loss": value, "sinkhorn": sinkhorn}


def _grouped(sequences: list[Sequence], number: int) -> tuple[Sequence, ...]:
    """A group whose tokens know its number and that their weights add up to 1."""
    count = sum(s.targets for s in sequences)
    return tuple(with_constants(s, group=float(number), share=1.0 / count) for s in sequences)
