"""Any token objective with its gradient by autograd, on some rows of a tile at a time."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.trainers.head.head import Head, Projector
from kdbench.trainers.head.partial import completed
from kdbench.trainers.objectives.divergences import Columns, TokenObjective, Values

_BLOCKED_FROM = 1 << 22
"""Logits of a tile from which an objective is computed in blocks on a CPU."""
_BLOCK_ELEMENTS = 1 << 18
"""Logits of such a block: the dozen tensors that an objective makes of it stay in the cache."""
_GPU_BLOCK_ELEMENTS = 1 << 25
"""The same on a GPU: 128 MiB a float32 tensor, some 80 µs a kernel at 3 TB/s, so that starting it is
nothing beside."""
_VECTOR = 64
"""Elements that vectorised loops take at once, at most."""


class Tile(NamedTuple):
    """Raw logits of some targets, (n, V) each, and what the objective reads beside them, (n,)."""

    student_nV: Tensor
    teacher_nV: Tensor | None
    target_n: Tensor
    columns: Columns

    def rows(self, block: slice) -> "Tile":
        """Some of its rows."""
        teacher = None if self.teacher_nV is None else self.teacher_nV[block]
        columns = {name: column[block] for name, column in self.columns.items()}
        return Tile(self.student_nV[block], teacher, self.target_n[block], columns)


def generic_tile(
    objective: TokenObjective,
    tile: Tile,
    student: Projector,
    teacher: Projector | None,
    *,
    learning: bool,
) -> tuple[Values, Tensor | None]:
    """Values of a tile, and the gradient of the student's logits before soft-capping.

    Both logits are spoilt: the gradient takes the place of the student's if that is wide enough.
    """
    room = tile.student_nV
    if room.dtype != student.out_dtype:
        room = torch.empty_like(room, dtype=student.out_dtype)
    parts: list[Values] = []
    learnt = False
    for block in _blocks(tile.student_nV):
        part = tile.rows(block)
        wide = part._replace(student_nV=student.wide(part.student_nV))
        if teacher is not None and part.teacher_nV is not None:
            wide = wide._replace(teacher_nV=_taught(part.teacher_nV, teacher, wide, student.head))
        values, grad_nV = _block(objective, wide, student.head, learning=learning)
        parts.append(values)
        if grad_nV is not None:
            room[block] = grad_nV
            learnt = True
    values = parts[0]
    if len(parts) > 1:
        values = {name: torch.cat([part[name] for part in parts]) for name in values}
    return values, room if learnt else None


def _taught(raw_nV: Tensor, teacher: Projector, tile: Tile, student: Head) -> Tensor:
    """The teacher's logits; of one that is known in part, with the student's where it is not."""
    if teacher.head.known:
        return completed(raw_nV, student.capped(tile.student_nV))
    return teacher.head.capped(teacher.wide(raw_nV))


def _blocks(tile_nV: Tensor) -> Iterator[slice]:
    """Rows that an objective is computed on together: on a CPU few enough for its cache.

    Vectorised loops round the odd elements at the end of a tensor in another way, so blocks end
    where whole vectors do: values do not depend on the blocks. On a GPU they bound the memory of
    the dozen float32 tensors that an objective makes.
    """
    rows, vocab = tile_nV.shape
    height = rows
    if tile_nV.device.type != "cpu":
        height = max(1, _GPU_BLOCK_ELEMENTS // vocab)
    elif tile_nV.numel() > _BLOCKED_FROM:
        whole = _VECTOR // math.gcd(_VECTOR, vocab)
        height = max(1, _BLOCK_ELEMENTS // (vocab * whole)) * whole
    for begin in range(0, rows, max(1, height)):
        yield slice(begin, min(begin + height, rows))


def _block(
    objective: TokenObjective, tile: Tile, head: Head, *, learning: bool
) -> tuple[Values, Tensor | None]:
    # Autocast off: objectives choose float32 on purpose.
    device = tile.student_nV.device.type
    with torch.set_grad_enabled(learning), torch.autocast(device, enabled=False):
        student_nV = tile.student_nV.detach().requires_grad_(learning)
        values = objective(head.capped(student_nV), tile.teacher_nV, tile.target_n, tile.columns)
        loss = values["loss"].sum()
        grad_nV = None
        if learning and loss.requires_grad:
            (grad_nV,) = torch.autograd.grad(loss, student_nV)
    return {name: value.detach() for name, value in values.items()}, grad_nV
