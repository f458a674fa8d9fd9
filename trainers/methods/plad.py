"""PLaD, known to us from its abstract: pseudo-preference pairs; all hyper-parameters are ours."""

from collections.abc import Sequence as Seq
from typing import Literal

import torch
from pydantic import Field

from kdbench.harness.errors import InputError
from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.sources import student_responses, with_constants
from kdbench.trainers.types import Sequence


class PLaD(Method):
    """The teacher's answer y⁺ preferred to the initial student's y⁻; s(y) = log q(y)/|y|.

    ``ranking``: max(0, δ − s(y⁺) + s(y⁻)); ``margin``: max(0, δ·Δ − s(y⁺) + s(y⁻)) with Δ the
    difference of an outside score of the answers, here the teacher's mean log-probability (ours;
    below 0 counts as 0); plus ``sft``·(−s(y⁺)). Pairs are sampled once, before the first step, for
    ``prompts`` prompts.

    Source: Zhang et al., Findings of ACL 2024, arXiv:2406.02886, from the abstract; δ, the score,
    the anchor's weight and the number of prompts are ours; the rate of suite ``mini`` is a guess, not
    searched. ``ranking`` needs of the teacher its answers alone, ``margin`` its logits too.
    """

    class Config(MethodConfig):
        """Fields of ``plad``; all values ours."""

        form: Literal["ranking", "margin"] = Field("ranking", description="calibration loss")
        delta: float = Field(1.0, gt=0, description="δ, margin in nats a token")
        sft: float = Field(1.0, ge=0, description="weight of the anchor on y⁺")
        prompts: int = Field(1024, gt=0, description="prompts that get a pair")

    card = Card(
        title="PLaD",
        paper="arXiv:2406.02886",
        variant="from the abstract",
        cost="2 + one teacher and one student answer a prompt (margin: teacher logits of both)",
        teacher_samples=True,
        student_samples=True,
    )

    remembers = ("worse", "gaps")

    worse: Seq[Sequence] = ()
    gaps: Seq[float] = ()

    def needs_probabilities(self) -> bool:
        """The margin is of its log-probabilities."""
        return self.config.form == "margin"

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Pairs (teacher answer, answer of the student as it was before training)."""
        better = ctx.teacher_answers(range(min(self.config.prompts, len(ctx.prompts))))
        if not self.worse:
            self._sample(ctx, better)
        # an answer that was cut before it said anything has no score
        both = zip(better, self.worse, strict=True)
        scored = [i for i, pair in enumerate(both) if all(side.targets for side in pair)]
        if not scored:
            raise InputError(
                "method plad: no prompt has an answer of the teacher and one of the student"
            )
        picked = [scored[i] for i in ctx.indices(step, n=len(scored))]
        pairs = tuple(
            tuple(with_constants(side[i], gap=self.gaps[i]) for side in (better, self.worse))
            for i in picked
        )
        return (Stream("pair", pairs, "group"),)

    def _sample(self, ctx: Context, better: list[Sequence]) -> None:
        self.worse = student_responses(ctx, 0, better)
        self.gaps = [1.0] * len(better)
        if self.config.form == "margin":
            scores = [
                [float(x.mean()) for x in ctx.score(answers, "teacher")]
                for answers in (better, self.worse)
            ]
            self.gaps = [max(0.0, a - b) for a, b in zip(*scores, strict=True)]

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed hinge and anchor over pairs."""
        lengths = micro.lengths()
        score = micro.sum_by_sequence(micro.logprobs()) / lengths
        gap = (micro.sum_by_sequence(micro.packed.columns["gap"]) / lengths)[0::2]
        win, lose = score[0::2], score[1::2]
        hinge = calibration(win, lose, self.config.delta * gap)
        value = (hinge - self.config.sft * win).sum()
        return {
            "loss": value,
            "hinge": hinge.sum(),
            "active": (hinge > 0).sum(),
            "chosen_nll": -win.sum(),
            "rejected_nll": -lose.sum(),
        }


def calibration(win: torch.Tensor, lose: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """max(0, margin − s(y⁺) + s(y⁻)), one value a pair."""
    return (margin - win + lose).clamp_min(0)
