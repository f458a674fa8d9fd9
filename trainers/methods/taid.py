"""TAID: a target that moves from the student's own distribution to the teacher's."""

import math
from typing import Any

from pydantic import Field

from kdbench.trainers.method import Card, Context, Dimension, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import taid
from kdbench.trainers.sources import RESPONSES, OnResponses, ResponsesConfig


class TAID(OnResponses):
    """L_t = D_KL(p_t ‖ q), p_t = softmax((1−t)·sg(student logits) + t·teacher logits).

    After each step n with loss ℓ_n: m ← b·m + (1−b)·(ℓ_{n−1} − ℓ_n)/ℓ_{n−1} and
    t ← min(t_end, max(linear floor, t + a·σ(m)·(1−t))), the floor running from t_start to t_end.

    Source: Shing et al., ICLR 2025, arXiv:2501.16937, eq. 3 and algorithm 1, and
    SakanaAI/TAID@a062892. As in their code ℓ is the cross-entropy form, whose floor is the
    target's entropy.
    """

    class Config(ResponsesConfig):
        """Fields of ``taid``; defaults from the authors' code."""

        t_start: float = Field(0.4, ge=0, le=1, description="first interpolation")
        t_end: float = Field(1.0, ge=0, le=1, description="last interpolation")
        rate: float = Field(5e-4, ge=0, description="a, how fast t may run ahead of the floor")
        momentum: float = Field(0.99, ge=0, lt=1, description="b, of the relative improvement")

    card = Card(
        title="TAID",
        paper="arXiv:2501.16937",
        cost="1 + teacher forward",
        teacher_logits=True,
        space=(
            Dimension(name="method.t_start", low=0.0, high=0.6),
            RESPONSES,
        ),
    )

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.schedule = Schedule(config.t_start, config.t_end, config.rate, config.momentum)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed divergence from the interpolated target."""
        return micro.sum(taid, teacher=True, t=self.schedule.t)

    def after_step(self, ctx: Context, step: int, terms: dict[str, float]) -> None:
        """Moves t on."""
        self.schedule.update(terms["response/taid_ce"], ctx.progress)

    def state_dict(self) -> dict[str, Any]:
        """t, its momentum and the loss it is compared with."""
        return dict(vars(self.schedule))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        vars(self.schedule).update(state)


class Schedule:
    """TAID's t; see the method."""

    def __init__(self, start: float, end: float, rate: float, momentum: float) -> None:
        self.start, self.end, self.rate, self.momentum = start, end, rate, momentum
        self.t, self.mean = start, 0.0
        self.last: float | None = None

    def update(self, loss: float, progress: float) -> float:
        """T after a step of this loss, taken at this fraction of the budget."""
        if self.last is not None:
            change = (self.last - loss) / (self.last + 1e-15)
            self.mean = self.momentum * self.mean + (1 - self.momentum) * change
            ahead = self.t + self.rate / (1 + math.exp(-self.mean)) * (1 - self.t)
            floor = self.start + (self.end - self.start) * progress
            self.t = min(self.end, max(floor, ahead))
        self.last = loss
        return self.t
