"""Cross-entropy, forward KL and reverse KL with their gradients, in place, while logits are in the cache."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kdbench.trainers.head.head import Head, Projector
from kdbench.trainers.objectives import divergences as objectives
from kdbench.trainers.objectives.divergences import TokenObjective, Values

_BLOCK_ELEMENTS = 1 << 18
"""Logits a block of element-wise work on a CPU: three buffers of it stay in a 4 MiB cache."""
_GPU_BLOCK_ELEMENTS = 1 << 25
"""The same on a GPU: bounds the float32 copies of a tile in half precision."""


def likelihood(
    student: Tensor, teacher: Tensor | None, target: Tensor, columns: objectives.Columns
) -> Values:
    """Cross-entropy for scoring: also says whether the target is the likeliest token."""
    values = objectives.cross_entropy(student, teacher, target, columns)
    return values | {"greedy": student.argmax(-1) == target}


class Analytic(ABC):
    """An objective whose values and gradient are written down, in place, block by block."""

    @property
    @abstractmethod
    def asks_teacher(self) -> bool:
        """Whether the teacher's logits are needed."""

    @abstractmethod
    def _block_(
        self, s: Tensor, t: Tensor | None, room: Tensor | None, target: Tensor, *, learning: bool
    ) -> Values:
        """As ``tile_`` for a block of float logits; ``room`` is scratch of the same shape."""

    def tile_(
        self,
        student_nV: Tensor,
        teacher_nV: Tensor | None,
        target_n: Tensor,
        student: Projector,
        teacher: Projector | None,
        *,
        learning: bool,
    ) -> Values:
        """Values of a tile; ``student_nV`` becomes the gradient, ``teacher_nV`` is spoilt."""
        # on a CPU each block is read and written while in the cache
        elements = _BLOCK_ELEMENTS if student_nV.device.type == "cpu" else _GPU_BLOCK_ELEMENTS
        rows = max(1, elements // student_nV.shape[1])
        parts: list[Values] = []
        scratch = None
        for begin in range(0, len(target_n), rows):
            block = slice(begin, begin + rows)
            s, t, room = student.wide(student_nV[block]), None, None
            if teacher is not None and teacher_nV is not None:
                t = teacher.wide(teacher_nV[block])
                scratch = torch.empty_like(t) if scratch is None else scratch
                room = scratch[: len(s)]
            parts.append(self._block_(s, t, room, target_n[block, None], learning=learning))
            if learning and s.dtype != student_nV.dtype:
                student_nV[block] = s
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


@dataclass(frozen=True, slots=True)
class Supervised(Analytic):
    """``ce`` * cross-entropy + ``kl`` * D(p|q): gradient (ce+kl) q - kl p - ce 1[target].

    Args:
        ce: weight of the cross-entropy.
        kl: weight of forward KL; 0: no teacher is needed.
        greedy: whether the likeliest token is looked for, too.
    """

    ce: float
    kl: float
    greedy: bool = False

    @property
    def asks_teacher(self) -> bool:
        """Only forward KL does."""
        return self.kl != 0

    def _block_(
        self, s: Tensor, t: Tensor | None, room: Tensor | None, target: Tensor, *, learning: bool
    ) -> Values:
        s.sub_(s.amax(-1, keepdim=True))
        at_target = s.gather(-1, target)
        greedy = {"greedy": s.argmax(-1) == target[:, 0]} if self.greedy else {}
        teacher_values = None
        if t is not None and room is not None:
            t.sub_(t.amax(-1, keepdim=True))
            z_p = torch.exp(t, out=room).sum(-1, keepdim=True)
            mean_t = t.mul_(room).sum(-1, keepdim=True) / z_p
            mean_s = torch.mul(room, s, out=t).sum(-1, keepdim=True) / z_p
            teacher_values = (z_p, z_p.log() - mean_t, mean_s)
        z_q = s.exp_().sum(-1, keepdim=True)
        log_z_q = z_q.log()
        nll = log_z_q - at_target
        if learning:
            s.mul_((self.ce + self.kl) / z_q)
            if self.ce:
                s.scatter_add_(-1, target, torch.full_like(at_target, -self.ce))
        if teacher_values is None or room is None:
            return greedy | {"loss": self.ce * nll[:, 0], "nll": nll[:, 0]}
        z_p, entropy, mean_s = teacher_values
        if learning:
            s.addcmul_(room, z_p.reciprocal(), value=-self.kl)
        kl_ce = log_z_q - mean_s
        kl = kl_ce - entropy
        named = {
            "loss": self.ce * nll + self.kl * kl,
            "forward_kl": kl,
            "forward_kl_ce": kl_ce,
            "nll": nll,
        }
        return {name: value[:, 0] for name, value in named.items()}


@dataclass(frozen=True, slots=True)
class ReverseKL(Analytic):
    """D(q|p) = sum q d with d = log q - log p: gradient q (d - D(q|p)), as sum q grad(d) is 0."""

    @property
    def asks_teacher(self) -> bool:
        """Always."""
        return True

    def _block_(
        self, s: Tensor, t: Tensor | None, room: Tensor | None, target: Tensor, *, learning: bool
    ) -> Values:
        if t is None or room is None:
            raise ValueError("reverse KL needs the teacher's logits")
        s.sub_(s.amax(-1, keepdim=True))
        t.sub_(t.amax(-1, keepdim=True))
        log_z_p = torch.exp(t, out=room).sum(-1, keepdim=True).log()
        at_target = s.gather(-1, target)
        torch.sub(s, t, out=t)  # d, but for what is the same for all tokens
        z_q = torch.exp(s, out=room).sum(-1, keepdim=True)
        log_z_q = z_q.log()
        mean = torch.mul(room, t, out=s).sum(-1, keepdim=True) / z_q
        if learning:
            torch.mul(t.sub_(mean), room.div_(z_q), out=s)
        kl = (mean - log_z_q + log_z_p)[:, 0]
        return {"loss": kl, "reverse_kl": kl, "nll": (log_z_q - at_target)[:, 0]}


def analytic_form(
    objective: TokenObjective, student: Head, teacher: Head | None
) -> Analytic | None:
    """The analytic road for an objective and its heads, or None if it must take the generic one.

    A bias may hold ``-inf`` and a soft cap bends the gradient: both are left to the generic road.
    """
    for head in filter(None, (student, teacher)):
        if head.weight is None or head.softcap is not None:
            return None
        if head.bias is not None and not head.bias.isfinite().all():
            return None
    bare = objective if isinstance(objective, partial) else partial(objective)
    if bare.args:
        return None
    function, options = bare.func, bare.keywords
    if function is objectives.cross_entropy:
        return Supervised(1.0, 0.0)
    if function is likelihood:
        return Supervised(1.0, 0.0, greedy=True)
    if teacher is None:
        return None
    if function is objectives.forward_kl and options.get("temperature", 1.0) == 1.0:
        return Supervised(0.0, 1.0)
    if function is objectives.reverse_kl and options.get("temperature", 1.0) == 1.0:
        return ReverseKL()
    if function is objectives.word_kd:
        ratio = options.get("kd_ratio", 0.5)
        return Supervised(1.0 - ratio, ratio)
    return None
