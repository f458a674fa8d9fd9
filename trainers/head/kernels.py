"""Tile arithmetic behind ``head``: projections, generic and analytic gradients, accumulation.

Nothing here knows models or autograd graphs: tensors in, sums and gradients out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.trainers.head.analytic import analytic_form
from kdbench.trainers.head.projection import Parts, Projector, sum_dtype
from kdbench.trainers.objectives import divergences as objectives
from kdbench.trainers.objectives.divergences import TokenObjective, Values

_TILE_ELEMENTS = 1 << 24
"""Logits a tile and model: 64 MiB in float32, and enough rows that matmuls reach full speed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What ``run`` sums: an objective over N targets; ``rows`` is the tile height."""

    objective: TokenObjective
    student: Parts
    teacher: Parts | None
    teacher_hidden_ND: Tensor | None
    target_N: Tensor
    columns: dict[str, Tensor]
    rows: int


class Result(NamedTuple):
    """Float64 sums of the named values; gradients of the sum of ``"loss"`` (None: not wanted)."""

    sums: dict[str, Tensor]
    grad_hidden: Tensor | None
    grad_weight: Tensor | None
    grad_bias: Tensor | None


class Wanted(NamedTuple):
    """Which gradients to compute."""

    hidden: bool
    weight: bool
    bias: bool


def default_rows(vocab: int) -> int:
    """Tile height for a vocabulary: as many rows as the element budget holds, at least 16."""
    return max(16, _TILE_ELEMENTS // vocab)


def _capped(logits_nV: Tensor, softcap: float | None) -> Tensor:
    return logits_nV if softcap is None else softcap * torch.tanh(logits_nV / softcap)


@torch.no_grad()
def run(job: Job, hidden_ND: Tensor, wanted: Wanted) -> Result:
    """Sum an objective's values over all targets, with the gradients wanted of it.

    Args:
        job: objective, heads, targets.
        hidden_ND: the student's hidden states, detached.
        wanted: gradients to compute.
    """
    student = Projector(hidden_ND, job.student, frozen=False)
    teacher = None
    if job.teacher is not None and job.teacher_hidden_ND is not None:
        teacher = Projector(job.teacher_hidden_ND, job.teacher, frozen=True)
    gradients = _Gradients(student, hidden_ND, wanted)
    sums: dict[str, Tensor] = {}
    for span, values, grad_nV in _tiles(job, student, teacher, learning=any(wanted)):
        for name, value_n in values.items():
            total = value_n.sum(dtype=torch.float64)
            sums[name] = sums[name] + total if name in sums else total
        if grad_nV is not None:
            gradients.add(span, grad_nV)
    sums.setdefault("loss", torch.zeros((), dtype=torch.float64, device=hidden_ND.device))
    return Result(sums, *gradients.done())


def _spans(count: int, rows: int) -> Iterator[slice]:
    """Equal tiles of at most ``rows``: a short last one would waste a matmul."""
    tiles = max(1, math.ceil(count / rows))
    size = math.ceil(count / tiles)
    for begin in range(0, count, max(1, size)):
        yield slice(begin, min(begin + size, count))


def _tiles(
    job: Job, student: Projector, teacher: Projector | None, *, learning: bool
) -> Iterator[tuple[slice, Values, Tensor | None]]:
    """Values and logit gradients (before soft-cap) tile by tile; tiles share their buffers."""
    spans = list(_spans(len(job.target_N), job.rows))
    analytic = analytic_form(job.objective, job.student, job.teacher)
    if analytic is None:
        for span in spans:
            yield span, *_generic_tile(job, student, teacher, span, learning=learning)
        return
    height = max((s.stop - s.start for s in spans), default=0)
    student_room = student.buffer(height)
    teacher_room = None if teacher is None or not analytic.kl else teacher.buffer(height)
    for span in spans:
        rows = span.stop - span.start
        student_nV = student.raw(span, out=student_room[:rows])
        teacher_nV = None
        if teacher is not None and teacher_room is not None:
            teacher_nV = teacher.raw(span, out=teacher_room[:rows])
        values = analytic.tile_(
            student_nV, teacher_nV, job.target_N[span], student, teacher, learning=learning
        )
        yield span, values, student_nV if learning else None


def _generic_tile(
    job: Job, student: Projector, teacher: Projector | None, span: slice, *, learning: bool
) -> tuple[Values, Tensor | None]:
    teacher_nV = None
    if teacher is not None and job.teacher is not None:
        teacher_nV = _capped(teacher.logits(span), job.teacher.softcap)
    columns = {name: column[span] for name, column in job.columns.items()}
    student_nV = student.logits(span)
    # Autocast off: objectives choose float32 on purpose.
    with torch.set_grad_enabled(learning), torch.autocast(student_nV.device.type, enabled=False):
        student_nV.requires_grad_(learning)
        capped_nV = _capped(student_nV, job.student.softcap)
        values = job.objective(capped_nV, teacher_nV, job.target_N[span], columns)
        loss = values["loss"].sum()
        grad_nV = None
        if learning and loss.requires_grad:
            (grad_nV,) = torch.autograd.grad(loss, student_nV)
    return {name: value.detach() for name, value in values.items()}, grad_nV


class _Gradients:
    """Accumulates head gradients over tiles, in float32 whatever the precision of the matmuls."""

    def __init__(self, student: Projector, hidden_ND: Tensor, wanted: Wanted) -> None:
        self.student, self.wanted, self.vocab = student, wanted, student.parts.vocab
        self.first = True
        weight, bias = student.parts.weight, student.parts.bias
        wide = sum_dtype(hidden_ND.dtype)
        self.hidden_ND = torch.zeros_like(hidden_ND) if wanted.hidden else None
        self.weight_VD = self.bias_V = None
        if wanted.weight and weight is not None:
            self.weight_VD = torch.empty_like(weight, dtype=wide)
            self.weight_VD[self.vocab :] = 0
        if wanted.bias and bias is not None:
            self.bias_V = torch.zeros_like(bias, dtype=wide)

    def add(self, span: slice, grad_nV: Tensor) -> None:
        """Take a tile's logit gradient into account; the tensor may be reused afterwards."""
        student = self.student
        if student.weight_VD is None:
            if self.hidden_ND is not None:
                self.hidden_ND[span, : self.vocab] = grad_nV
            return
        if self.bias_V is not None:
            self.bias_V[: self.vocab] += (
                grad_nV.sum(0, dtype=self.bias_V.dtype) * student.parts.scale
            )
        grad_nV = grad_nV.to(student.weight_VD.dtype)
        with torch.autocast(grad_nV.device.type, enabled=False):
            if self.hidden_ND is not None:
                grad_nD = grad_nV @ student.weight_VD
                self.hidden_ND[span] = grad_nD.mul_(student.parts.scale)
            if self.weight_VD is not None:
                self._add_weight(self.weight_VD[: self.vocab], grad_nV, student.hidden_ND[span])

    def _add_weight(self, total: Tensor, grad_nV: Tensor, hidden_nD: Tensor) -> None:
        if grad_nV.dtype == total.dtype:
            torch.addmm(total, grad_nV.T, hidden_nD, beta=0 if self.first else 1, out=total)
        elif self.first:
            total.copy_(grad_nV.T @ hidden_nD)
        else:
            total.add_(grad_nV.T @ hidden_nD)
        self.first = False

    def done(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients in the dtypes of what they belong to."""
        weight, bias = self.weight_VD, self.bias_V
        if self.first and weight is not None:  # there was no tile, or nothing to learn
            weight.zero_()
        if weight is not None and self.student.parts.weight is not None:
            weight = weight.to(self.student.parts.weight.dtype)
        if bias is not None and self.student.parts.bias is not None:
            bias = bias.to(self.student.parts.bias.dtype)
        return self.hidden_ND, weight, bias


@torch.no_grad()
def target_logprobs(hidden_ND: Tensor, job: Job) -> Tensor:
    """Log q(target), (N,), without gradient; of the job only student, targets and rows matter."""
    job = replace(job, objective=objectives.cross_entropy, columns={})
    student = Projector(hidden_ND, job.student, frozen=False)
    out = hidden_ND.new_zeros(len(job.target_N), dtype=student.out_dtype)
    for span, values, _ in _tiles(job, student, None, learning=False):
        out[span] = -values["nll"]
    return out


def weighted_logprob(
    student: Tensor, teacher: Tensor | None, target: Tensor, columns: dict[str, Tensor]
) -> Values:
    """Weight * log q(target): its gradient is what ``token_logprobs`` hands back."""
    nll = objectives.cross_entropy(student, teacher, target, columns)["loss"]
    return {"loss": -columns["weight"].to(nll.dtype) * nll}
