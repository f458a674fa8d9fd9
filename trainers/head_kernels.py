"""Tile arithmetic behind ``head``: projections, generic and analytic gradients, accumulation.

Nothing here knows models or autograd graphs: tensors in, sums and gradients out.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from kdbench.trainers import objectives
from kdbench.trainers.arithmetic import slow_in_half
from kdbench.trainers.objectives import TokenObjective, Values

_TILE_ELEMENTS = 1 << 24
"""Logits a tile and model: 64 MiB in float32, and enough rows that matmuls reach full speed."""

_BLOCK_ELEMENTS = 1 << 18
"""Logits a block of element-wise work on a CPU: three buffers of it stay in a 4 MiB cache."""


class Parts(NamedTuple):
    """A head taken apart: detached ``weight`` (V', D) and ``bias`` (V',) or None, and transforms.

    A ``weight`` of None means that hidden states are logits (N, V') already.
    """

    weight: Tensor | None
    bias: Tensor | None
    scale: float
    softcap: float | None
    vocab: int


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
    """Float64 sums of the named values, and gradients of the sum of ``"loss"`` (None: not wanted)."""

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


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Logits, values and losses are float32, or float64 if the hidden states are."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def matmul_dtype(hidden_ND: Tensor, weight_VD: Tensor) -> torch.dtype:
    """Precision of the head's matmuls: autocast's if it is on, else that of the operands.

    Where that is slower than float32 the head stays in float32, which is also more exact.
    """
    device = hidden_ND.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    else:
        dtype = torch.promote_types(hidden_ND.dtype, weight_VD.dtype)
    return torch.float32 if slow_in_half(device, dtype) else dtype


_frozen_casts: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Frozen weight -> (version, cast), so that a teacher's head is not cast anew in every step."""


def _cast(weight: Tensor, dtype: torch.dtype, *, frozen: bool) -> Tensor:
    if weight.dtype == dtype:
        return weight
    if not frozen:
        return weight.to(dtype)
    version, cast = _frozen_casts.get(weight, (None, None))
    if cast is None or version != weight._version or cast.dtype != dtype:
        cast = weight.to(dtype)
        _frozen_casts[weight] = (weight._version, cast)
    return cast


class _Projector:
    """Hidden rows to logits before soft-capping. ``scale`` is folded into the hidden states, so that
    no pass over the vocabulary is spent on it."""

    def __init__(self, hidden_ND: Tensor, parts: Parts, *, frozen: bool) -> None:
        self.parts, self.out_dtype = parts, sum_dtype(hidden_ND.dtype)
        if parts.weight is None:
            self.hidden_ND, self.weight_VD = hidden_ND[:, : parts.vocab], None
            return
        with torch.no_grad():
            dtype = matmul_dtype(hidden_ND, parts.weight)
            hidden_ND = hidden_ND if parts.scale == 1.0 else hidden_ND * parts.scale
            self.hidden_ND = hidden_ND.to(dtype)
            self.weight_VD = _cast(parts.weight, dtype, frozen=frozen)[: parts.vocab]
        self.bias_V = None
        if parts.bias is not None:
            self.bias_V = parts.bias[: parts.vocab].to(self.out_dtype) * parts.scale

    def buffer(self, rows: int) -> Tensor:
        """Room for a tile of this projector's raw logits."""
        return self.hidden_ND.new_empty(rows, self.parts.vocab)

    def raw(self, span: slice, out: Tensor | None = None) -> Tensor:
        """Logits of some rows in the matmul's precision, bias not yet added."""
        if self.weight_VD is None:
            return self.hidden_ND[span].clone()
        with torch.autocast(self.hidden_ND.device.type, enabled=False):
            return torch.mm(self.hidden_ND[span], self.weight_VD.T, out=out)

    def logits(self, span: slice) -> Tensor:
        """Logits of some rows before soft-capping, in float32 or float64."""
        raw = self.raw(span).to(self.out_dtype)
        if self.weight_VD is not None and self.bias_V is not None:
            raw.add_(self.bias_V)
        return raw


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
    student = _Projector(hidden_ND, job.student, frozen=False)
    teacher = None
    if job.teacher is not None and job.teacher_hidden_ND is not None:
        teacher = _Projector(job.teacher_hidden_ND, job.teacher, frozen=True)
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
    job: Job, student: _Projector, teacher: _Projector | None, *, learning: bool
) -> Iterator[tuple[slice, Values, Tensor | None]]:
    """Values and logit gradients (before soft-cap) tile by tile; buffers are reused between tiles."""
    spans = list(_spans(len(job.target_N), job.rows))
    analytic = analytic_form(job)
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
    job: Job, student: _Projector, teacher: _Projector | None, span: slice, *, learning: bool
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

    def __init__(self, student: _Projector, hidden_ND: Tensor, wanted: Wanted) -> None:
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
            self.bias_V[: self.vocab] += grad_nV.sum(0, dtype=self.bias_V.dtype) * student.parts.scale
        grad_nV = grad_nV.to(student.weight_VD.dtype)
        with torch.autocast(grad_nV.device.type, enabled=False):
            if self.hidden_ND is not None:
                grad_nD = grad_nV @ student.weight_VD
                self.hidden_ND[span] = grad_nD.mul_(student.parts.scale)
            if self.weight_VD is not None:
                self._add_weight(grad_nV, student.hidden_ND[span])

    def _add_weight(self, grad_nV: Tensor, hidden_nD: Tensor) -> None:
        total = self.weight_VD[: self.vocab]
        if grad_nV.dtype == total.dtype:
            torch.addmm(total, grad_nV.T, hidden_nD, beta=0 if self.first else 1, out=total)
        elif self.first:
            total.copy_(grad_nV.T @ hidden_nD)
        else:
            total.add_(grad_nV.T @ hidden_nD)
        self.first = False

    def done(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients in the dtypes of what they belong to."""
        weight, bias = self.student.parts.weight, self.student.parts.bias
        if self.first and self.weight_VD is not None:  # there was no tile, or nothing to learn
            self.weight_VD.zero_()
        return (
            self.hidden_ND,
            None if self.weight_VD is None else self.weight_VD.to(weight.dtype),
            None if self.bias_V is None else self.bias_V.to(bias.dtype),
        )


@dataclass(frozen=True, slots=True)
class Analytic:
    """``ce`` * cross-entropy + ``kl`` * D(p|q): gradient (ce+kl) q - kl p - ce 1[target], in place.

    Args:
        ce: weight of the cross-entropy.
        kl: weight of forward KL; 0: no teacher is needed.
        divergence: whether the generic objective names the teacher values.
    """

    ce: float
    kl: float
    divergence: bool

    def tile_(
        self,
        student_nV: Tensor,
        teacher_nV: Tensor | None,
        target_n: Tensor,
        student: _Projector,
        teacher: _Projector | None,
        *,
        learning: bool,
    ) -> Values:
        """Values of a tile; ``student_nV`` becomes the gradient, ``teacher_nV`` is spoilt."""
        rows = len(target_n)
        if student_nV.device.type == "cpu":  # each block is read and written while in the cache
            rows = max(1, _BLOCK_ELEMENTS // student_nV.shape[1])
        parts: list[Values] = []
        scratch = None
        for begin in range(0, len(target_n), rows):
            block = slice(begin, begin + rows)
            s = student_nV[block].to(student.out_dtype)
            if student.bias_V is not None:
                s.add_(student.bias_V)
            t = None
            if teacher is not None and teacher_nV is not None:
                t = teacher_nV[block].to(teacher.out_dtype)
                if teacher.bias_V is not None:
                    t.add_(teacher.bias_V)
                if scratch is None:
                    scratch = torch.empty_like(t)
            room = None if scratch is None else scratch[: len(s)]
            parts.append(self._block_(s, t, room, target_n[block, None], learning=learning))
            if learning and s.dtype != student_nV.dtype:
                student_nV[block] = s
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    def _block_(
        self, s: Tensor, t: Tensor | None, p: Tensor | None, target: Tensor, *, learning: bool
    ) -> Values:
        """As ``tile_`` for a block of float logits; ``p`` is scratch of the same shape."""
        s.sub_(s.amax(-1, keepdim=True))
        at_target = s.gather(-1, target)
        teacher_values = None
        if t is not None and p is not None:
            t.sub_(t.amax(-1, keepdim=True))
            z_p = torch.exp(t, out=p).sum(-1, keepdim=True)
            mean_t = t.mul_(p).sum(-1, keepdim=True) / z_p
            mean_s = torch.mul(p, s, out=t).sum(-1, keepdim=True) / z_p
            teacher_values = (z_p, z_p.log() - mean_t, mean_s)
        z_q = s.exp_().sum(-1, keepdim=True)
        log_z_q = z_q.log()
        nll = log_z_q - at_target
        if learning:
            s.mul_((self.ce + self.kl) / z_q)
            if self.ce:
                s.scatter_add_(-1, target, torch.full_like(at_target, -self.ce))
        if teacher_values is None:
            return {"loss": self.ce * nll[:, 0], "nll": nll[:, 0]}
        z_p, entropy, mean_s = teacher_values
        if learning:
            s.addcmul_(p, z_p.reciprocal(), value=-self.kl)
        kl_ce = log_z_q - mean_s
        kl = kl_ce - entropy
        named = {
            "loss": self.ce * nll + self.kl * kl,
            "forward_kl": kl,
            "forward_kl_ce": kl_ce,
            "nll": nll,
        }
        return {name: value[:, 0] for name, value in named.items()}


def analytic_form(job: Job) -> Analytic | None:
    """The analytic road for a job, or None if it must take the generic one.

    A bias may hold ``-inf`` and a soft cap bends the gradient: both are left to the generic road.
    """
    for parts in (job.student, job.teacher):
        if parts is not None and (parts.weight is None or parts.softcap is not None):
            return None
        if parts is not None and parts.bias is not None and not parts.bias.isfinite().all():
            return None
    function: Callable[..., Values] = job.objective
    options: dict[str, float] = {}
    if isinstance(function, partial):
        if function.args:
            return None
        function, options = function.func, function.keywords
    if function is objectives.cross_entropy:
        return Analytic(1.0, 0.0, False)
    if job.teacher is None:
        return None
    if function is objectives.forward_kl and options.get("temperature", 1.0) == 1.0:
        return Analytic(0.0, 1.0, True)
    if function is objectives.word_kd:
        ratio = options.get("kd_ratio", 0.5)
        return Analytic(1.0 - ratio, ratio, True)
    return None


@torch.no_grad()
def target_logprobs(hidden_ND: Tensor, job: Job) -> Tensor:
    """log q(target), (N,), without gradient; of the job only student, targets and rows matter."""
    job = replace(job, objective=objectives.cross_entropy, columns={})
    student = _Projector(hidden_ND, job.student, frozen=False)
    out = hidden_ND.new_zeros(len(job.target_N), dtype=student.out_dtype)
    for span, values, _ in _tiles(job, student, None, learning=False):
        out[span] = -values["nll"]
    return out


def weighted_logprob(
    student: Tensor, teacher: Tensor | None, target: Tensor, columns: dict[str, Tensor]
) -> Values:
    """weight * log q(target): its gradient is what ``token_logprobs`` hands back."""
    nll = objectives.cross_entropy(student, teacher, target, columns)["loss"]
    return {"loss": -columns["weight"].to(nll.dtype) * nll}
