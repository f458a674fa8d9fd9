"""Losses over the vocabulary without (batch, time, vocabulary).

Hidden states at target positions stream through both heads some hundred rows at a time; a token
objective is evaluated on each tile and the gradients of hidden states and head weight are
accumulated there and then. One ``autograd.Function`` returns them in its backward, so a tied
embedding gets both of its contributions and gradient hooks fire as usual.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.trainers import cpu
from kdbench.trainers.head.analytic import analytic_form, likelihood
from kdbench.trainers.head.generic import Tile, generic_tile
from kdbench.trainers.head.head import Head, Projector, sum_dtype
from kdbench.trainers.objectives import divergences as objectives
from kdbench.trainers.objectives.divergences import TokenObjective, Values

_TILE_ELEMENTS = 1 << 24
"""Logits a tile and model: 64 MiB in float32, and enough rows that matmuls reach full speed."""
_GPU_TILE_ELEMENTS = 1 << 27
"""The same on a GPU: 1,024 rows of a vocabulary of 128k, 256 MiB in half precision."""
_GPU_ROWS = 1024
"""Rows from which a GPU's products by the head reach their full speed."""
_SHARE = 32
"""A tile takes at most this part of a GPU's memory: of its size, not of what is free, so that the same
run sums in the same order whoever else is there."""


def tiled_sum(
    objective: TokenObjective,
    student_hidden_ND: Tensor,
    head: Head,
    target_N: Tensor,
    *,
    teacher_hidden_ND: Tensor | None = None,
    teacher_head: Head | None = None,
    columns: dict[str, Tensor] | None = None,
    tile: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum a token objective over all targets, tile by tile.

    Args:
        objective: pure function of a tile's logits; those of ``objectives`` that have an analytic
            gradient take a faster road to the same values.
        student_hidden_ND: (N, D), gets a gradient.
        head: the student's; weight and bias get gradients if they require them.
        target_N: ids (N,).
        teacher_hidden_ND: (N, D'), never gets a gradient.
        teacher_head: the teacher's; same ``vocab``.
        columns: name -> (N,), cut into tiles for the objective.
        tile: rows a tile; default by vocabulary size. Results do not depend on it.

    Returns:
        The scalar sum of ``"loss"`` (differentiable once), and the detached float64 sums of all
        values the objective names.
    """
    if (teacher_hidden_ND is None) != (teacher_head is None):
        raise ValueError("teacher_hidden_ND and teacher_head go together")
    if teacher_head is not None and teacher_head.vocab != head.vocab:
        raise ValueError(f"vocabularies differ: {head.vocab} and {teacher_head.vocab} tokens")
    job = replace(
        _job(objective, student_hidden_ND, head, target_N, tile),
        teacher=teacher_head,
        teacher_hidden_ND=None if teacher_hidden_ND is None else teacher_hidden_ND.detach(),
        columns={n: c.to(student_hidden_ND.device) for n, c in (columns or {}).items()},
    )
    tensors = (student_hidden_ND, head.weight, head.bias)
    learning = torch.is_grad_enabled()
    wanted = Wanted(*(learning and t is not None and t.requires_grad for t in tensors))
    loss, named = _TiledSum.apply(job, wanted, *tensors)
    return loss, named


class _TiledSum(torch.autograd.Function):
    """Gradients are computed in forward, where the logits are, and handed out in backward."""

    @staticmethod
    def forward(ctx, job, wanted, hidden_ND, weight, bias):  # type: ignore[no-untyped-def]
        result = run(job, hidden_ND.detach(), wanted)
        ctx.grads = (result.grad_hidden, result.grad_weight, result.grad_bias)
        loss = result.sums["loss"].to(sum_dtype(hidden_ND.dtype), copy=True)
        return loss, result.sums

    @staticmethod
    def backward(ctx, grad_loss, _):  # type: ignore[no-untyped-def]
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("tiled_sum can be differentiated only once")
        # a CPU is spared a pass that changes nothing; elsewhere the host would wait to know
        if grad_loss.device.type != "cpu" or grad_loss != 1:
            for grad in grads:
                if grad is not None:
                    grad.mul_(grad_loss.to(grad.dtype))
        return None, None, *grads


def token_logprobs(
    hidden_ND: Tensor, head: Head, target_N: Tensor, *, tile: int | None = None
) -> Tensor:
    """Log q(target) for each row, (N,), differentiable; tiles are recomputed in backward.

    For objectives that need whole sequences before they know a token's weight.
    """
    job = _job(objectives.cross_entropy, hidden_ND, head, target_N, tile)
    return _TokenLogprobs.apply(job, hidden_ND, head.weight, head.bias)


def scored(
    hidden_ND: Tensor, head: Head, target_N: Tensor, *, tile: int | None = None
) -> tuple[Tensor, Tensor]:
    """The same without gradient, and whether each target is the likeliest token, both (N,).

    Of equally likely tokens the first counts, as for ``argmax``.
    """
    return _scores(hidden_ND, _job(likelihood, hidden_ND, head, target_N, tile))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, job, hidden_ND, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(hidden_ND)
        ctx.job = job
        # Backward runs outside the caller's autocast, but must repeat the same arithmetic.
        device = hidden_ND.device.type
        ctx.autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        return _scores(hidden_ND.detach(), job)[0]

    @staticmethod
    def backward(ctx, grad_N):  # type: ignore[no-untyped-def]
        (hidden_ND,) = ctx.saved_tensors
        enabled, dtype = ctx.autocast
        job = replace(ctx.job, objective=weighted_logprob, columns={"weight": grad_N})
        with torch.autocast(hidden_ND.device.type, enabled=enabled, dtype=dtype):
            wanted = Wanted(*ctx.needs_input_grad[1:])
            result = run(job, hidden_ND.detach(), wanted)
        return None, result.grad_hidden, result.grad_weight, result.grad_bias


# -- tiles


@dataclass(frozen=True, slots=True)
class Job:
    """What ``run`` sums: an objective over N targets; ``rows`` is the tile height."""

    objective: TokenObjective
    student: Head
    target_N: Tensor
    rows: int
    teacher: Head | None = None
    teacher_hidden_ND: Tensor | None = None
    columns: dict[str, Tensor] = field(default_factory=dict)


def _job(
    objective: TokenObjective, hidden_ND: Tensor, head: Head, target_N: Tensor, tile: int | None
) -> Job:
    device = hidden_ND.device
    rows = tile or default_rows(head.vocab, device)
    return Job(objective, head, target_N.to(device), rows)


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


def default_rows(vocab: int, device: torch.device, memory: int | None = None) -> int:
    """Tile height for a vocabulary: as many rows as the element budget holds, at least 16.

    On a GPU at least 1,024, as long as its raw logits (in half precision) take no more than a
    thirty-second of its memory.

    Args:
        vocab: number of tokens.
        device: that computes.
        memory: bytes of the GPU; None: asked of it.
    """
    if device.type != "cuda":
        return max(16, _TILE_ELEMENTS // vocab)
    whole = torch.cuda.get_device_properties(device).total_memory if memory is None else memory
    fitting = whole // (_SHARE * 2 * vocab)
    return max(16, min(fitting, max(_GPU_ROWS, _GPU_TILE_ELEMENTS // vocab)))


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
    height = max((s.stop - s.start for s in spans), default=0)
    asked = teacher if analytic is None or analytic.asks_teacher else None
    student_room = student.buffer(height)
    teacher_room = None if asked is None else asked.buffer(height)
    for span in spans:
        rows = span.stop - span.start
        student_nV = student.raw(span, out=student_room[:rows])
        teacher_nV = None
        if asked is not None and teacher_room is not None:
            teacher_nV = asked.raw(span, out=teacher_room[:rows])
        if analytic is None:
            columns = {name: column[span] for name, column in job.columns.items()}
            tile = Tile(student_nV, teacher_nV, job.target_N[span], columns)
            yield span, *generic_tile(job.objective, tile, student, asked, learning=learning)
            continue
        values = analytic.tile_(
            student_nV, teacher_nV, job.target_N[span], student, teacher, learning=learning
        )
        yield span, values, student_nV if learning else None


class _Gradients:
    """Accumulates head gradients over tiles, in float32 whatever the precision of the matmuls."""

    def __init__(self, student: Projector, hidden_ND: Tensor, wanted: Wanted) -> None:
        self.student, self.vocab = student, student.head.vocab
        wide = sum_dtype(hidden_ND.dtype)

        def room(tensor: Tensor | None, wanted: bool, dtype: torch.dtype) -> Tensor | None:
            return torch.zeros_like(tensor, dtype=dtype) if wanted and tensor is not None else None

        self.hidden_ND = room(hidden_ND, wanted.hidden, hidden_ND.dtype)
        self.weight_VD = room(student.head.weight, wanted.weight, wide)
        self.bias_V = room(student.head.bias, wanted.bias, wide)

    def add(self, span: slice, grad_nV: Tensor) -> None:
        """Take a tile's logit gradient into account; the tensor may be reused afterwards."""
        student = self.student
        if student.weight_VD is None:
            if self.hidden_ND is not None:
                self.hidden_ND[span, : self.vocab] = grad_nV
            return
        if self.bias_V is not None:
            self.bias_V[: self.vocab] += (
                grad_nV.sum(0, dtype=self.bias_V.dtype) * student.head.scale
            )
        grad_nV = grad_nV.to(student.weight_VD.dtype)
        with torch.autocast(grad_nV.device.type, enabled=False):
            if self.hidden_ND is not None:
                grad_nD = grad_nV @ student.weight_VD
                self.hidden_ND[span] = grad_nD.mul_(student.head.scale)
            if self.weight_VD is not None:
                total_VD, hidden_nD = self.weight_VD[: self.vocab], student.hidden_ND[span]
                if grad_nV.dtype == total_VD.dtype:
                    total_VD.addmm_(grad_nV.T, hidden_nD)
                elif grad_nV.device.type == "cpu":
                    cpu.add_product_(total_VD, grad_nV.T, hidden_nD)
                else:
                    total_VD.add_(grad_nV.T @ hidden_nD)

    def done(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients in the dtypes of what they belong to."""
        weight, bias, head = self.weight_VD, self.bias_V, self.student.head
        return (
            self.hidden_ND,
            weight if weight is None or head.weight is None else weight.to(head.weight.dtype),
            bias if bias is None or head.bias is None else bias.to(head.bias.dtype),
        )


@torch.no_grad()
def _scores(hidden_ND: Tensor, job: Job) -> tuple[Tensor, Tensor]:
    """Log q(target) and, if the objective says so, whether it is the likeliest token, (N,) each."""
    student = Projector(hidden_ND, job.student, frozen=False)
    log_q_N = hidden_ND.new_zeros(len(job.target_N), dtype=student.out_dtype)
    greedy_N = torch.zeros_like(log_q_N, dtype=torch.bool)
    for span, values, _ in _tiles(job, student, None, learning=False):
        log_q_N[span] = -values["nll"]
        if "greedy" in values:
            greedy_N[span] = values["greedy"]
    return log_q_N, greedy_N


def weighted_logprob(
    student: Tensor, teacher: Tensor | None, target: Tensor, columns: dict[str, Tensor]
) -> Values:
    """Weight * log q(target): its gradient is what ``token_logprobs`` hands back."""
    nll = objectives.cross_entropy(student, teacher, target, columns)["loss"]
    return {"loss": -columns["weight"].to(nll.dtype) * nll}
