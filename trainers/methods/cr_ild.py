"""CR-ILD, adapted from encoders: last-layer distillation with mixup consistency; ours on decoders."""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import word_kd
from kdbench.trainers.sources import drawn, with_constants


class CRILD(Method):
    """First ILD + w·consistency on last hidden states, then KD on the prediction layer.

    ILD = ‖W h_q − h_p‖²; consistency = λ·‖h(mix) − h(x)‖² + (1−λ)·‖h(mix) − h(x')‖², mix = λ·e(x)
    + (1−λ)·e(x') on input embeddings, λ ~ max(u, 1−u), u uniform, h(x) held fixed, w rising
    linearly to ``consistency``; squares are means over target tokens and hidden units. Then
    (1−ρ)·CE + ρ·D_KL(p ‖ q).

    Source: CR-ILD, Findings of EACL 2023, arXiv:2302.01530, and its code@f876f67, for encoders.
    Ours: everything that makes it a decoder's: a pair is two sequences, padded to the longer by
    zero embeddings, compared at each one's own target positions; hidden MSE through a linear
    projector W (not the relations of queries, keys and values); no moving-average target; no
    temperature in the KD. In the first phase every response stands in two pairs and is trained on
    twice, so it counts twice against a budget in response tokens.
    """

    class Config(MethodConfig):
        """Fields of ``cr-ild``."""

        consistency: float = Field(0.1, ge=0, description="w at the end of the first phase (paper)")
        first_phase: float = Field(0.5, ge=0, lt=1, description="share of the budget for ILD; ours")
        kd_ratio: float = Field(0.5, ge=0, le=1, description="ρ, of the second phase (paper's α)")

    card = Card(
        title="CR-ILD",
        paper="arXiv:2302.01530",
        variant="adapted from encoders",
        cost="2 + teacher forward (first phase), 1 + teacher forward (second)",
        teacher_logits=True,
    )

    def parameters(self, student_width: int, teacher_width: int) -> dict[str, nn.Module]:
        """The projector W to the teacher's hidden size."""
        self.projector = nn.Linear(student_width, teacher_width, bias=False)
        return {"projector": self.projector}

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Pairs of the step's examples that are mixed with each other (phase one), or examples."""
        batch = ctx.batch(step)
        if ctx.progress >= self.config.first_phase:
            return (Stream.of("response", batch),)
        shares = drawn(ctx.seed, step, 15, len(batch))
        pairs = [(batch[i], batch[i - 1]) for i in range(len(batch))]
        groups = tuple(
            tuple(with_constants(s, share=max(u, 1 - u)) for s in pair)
            for pair, u in zip(pairs, shares, strict=True)
        )
        return (Stream("hidden", groups, "group"),)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed KD over tokens, or hidden-state distances over pairs."""
        if stream.name == "response":
            sums = micro.sum(word_kd, teacher=True, kd_ratio=self.config.kd_ratio)
            idle = 0 * self.projector.weight.sum()  # ranks expect every gradient
            return sums | {"loss": sums["loss"] + idle}
        own = micro.student_hidden_ND
        square = (self.projector(own) - micro.teacher_hidden().to(own.dtype)).square().mean(-1)
        # every example is in two pairs
        ild = (micro.sum_by_sequence(square) / micro.lengths()).sum() / 2
        pairs = _pairs(micro, own)
        states = micro.student_backbone([pair.mix_TD for pair in pairs])
        parts = (consistency(pair, read_TD) for pair, read_TD in zip(pairs, states, strict=True))
        mixed = sum(parts, own.new_zeros(()))
        rising = self.config.consistency * ctx.progress / self.config.first_phase
        head = (micro.student_head.weight, micro.student_head.bias)  # no logits in this phase
        idle = sum((0 * t.sum() for t in head if t is not None), torch.zeros_like(ild))
        return {"loss": ild + rising * mixed + idle, "ild": ild, "consistency": mixed}


class _Pair(NamedTuple):
    """Two sequences that are mixed.

    Attributes:
        mix_TD: their input embeddings, the first one's share of it.
        lengths: of both in tokens.
        hidden: last hidden states of each at its targets, held fixed.
        share: λ.
    """

    mix_TD: Tensor
    lengths: list[int]
    hidden: list[Tensor]
    share: Tensor


def _pairs(micro: MicroBatch, own_ND: Tensor) -> list[_Pair]:
    """Sequences 0 and 1, 2 and 3, …; the shorter one of each padded by zero embeddings."""
    hidden = micro.by_sequence(own_ND.detach())
    shares = micro.by_sequence(micro.packed.columns["share"].to(own_ND.dtype))
    inputs = micro.inputs()
    pairs = []
    for i in range(0, len(inputs), 2):
        both, share = inputs[i : i + 2], shares[i][0]
        lengths = [len(ids) for ids in both]
        one, other = (
            nn.functional.pad(micro.embed(ids), (0, 0, 0, max(lengths) - len(ids))) for ids in both
        )
        mix_TD = share * one + (1 - share) * other
        pairs.append(_Pair(mix_TD, lengths, list(hidden[i : i + 2]), share))
    return pairs


def consistency(pair: _Pair, states_TD: Tensor) -> Tensor:
    """λ·d(h(mix), h(x)) + (1−λ)·d(h(mix), h(x')) of one pair; targets are each one's last positions."""
    value = states_TD.new_zeros(())
    shares = (pair.share, 1 - pair.share)
    for length, held, weight in zip(pair.lengths, pair.hidden, shares, strict=True):
        at = states_TD[length - len(held) : length]
        value = value + weight * (at - held).square().mean()
    return value
