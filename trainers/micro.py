"""One micro-batch through teacher and student: the concrete :class:`kdbench.trainers.method.Micro`."""

from collections.abc import Callable, Sequence as Seq
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel

from kdbench.trainers.head import Head, backbone_hidden, head_of, tiled_sum, token_logprobs
from kdbench.trainers.method import Objective
from kdbench.trainers.packing import pack, pad
from kdbench.trainers.types import Packed, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How sequences become rows. ``row`` is the longest packed row; ``packed`` False pads instead."""

    row: int
    pad_id: int
    packed: bool
    device: torch.device
    tile: int | None = None

    def __call__(self, sequences: Seq[Sequence]) -> Packed:
        """Rows of these sequences, on the device."""
        if self.packed:
            rows = pack(list(sequences), max_tokens=self.row, pad_id=self.pad_id)
        else:
            rows = pad(list(sequences), pad_id=self.pad_id)
        moved = {k: v.to(self.device) for k, v in rows.columns.items()}
        tensors = {
            k: v.to(self.device) for k, v in rows._asdict().items() if isinstance(v, torch.Tensor)
        }
        return rows._replace(**tensors, columns=moved)


@dataclass(slots=True)
class TeacherSide:
    """The frozen teacher; ``autocast`` is entered around its forward."""

    model: PreTrainedModel
    head: Head

    @torch.no_grad()
    def hidden(self, packed: Packed) -> torch.Tensor:
        """Hidden states that predict the targets, (N, D)."""
        return backbone_hidden(self.model, packed)


@dataclass(slots=True)
class MicroBatch:
    """See :class:`kdbench.trainers.method.Micro`."""

    packed: Packed
    student_hidden_ND: torch.Tensor
    student_head: Head
    teacher: TeacherSide | None
    tile: int | None
    logged: dict[str, torch.Tensor] = field(default_factory=dict)
    _teacher_hidden: torch.Tensor | None = None

    def _teacher_ND(self) -> torch.Tensor:
        assert self.teacher is not None, "this method needs a teacher"
        if self._teacher_hidden is None:
            self._teacher_hidden = self.teacher.hidden(self.packed)
        return self._teacher_hidden

    def sum(self, objective: Objective, *, teacher: bool) -> torch.Tensor:
        """Sum of a token objective; see the protocol."""
        loss, sums = tiled_sum(
            objective,
            self.student_hidden_ND,
            self.student_head,
            self.packed.target_N,
            teacher_hidden_ND=self._teacher_ND() if teacher else None,
            teacher_head=self.teacher.head if teacher and self.teacher else None,
            columns=self.packed.columns,
            tile=self.tile,
        )
        self.log(**sums)
        return loss

    def logprobs(self) -> torch.Tensor:
        """Student log-probability of each target, differentiable."""
        return token_logprobs(
            self.student_hidden_ND, self.student_head, self.packed.target_N, tile=self.tile
        )

    @torch.no_grad()
    def teacher_logprobs(self) -> torch.Tensor:
        """Teacher log-probability of each target."""
        hidden = self._teacher_ND()
        assert self.teacher is not None
        return token_logprobs(hidden, self.teacher.head, self.packed.target_N, tile=self.tile)

    def sum_by_sequence(self, values_N: torch.Tensor) -> torch.Tensor:
        """Token values summed a sequence, (B,)."""
        out = values_N.new_zeros(self.packed.sequences)
        return out.index_add(0, self.packed.owner_N, values_N)

    def log(self, **sums: torch.Tensor) -> None:
        """Adds detached sums to what the loop logs."""
        for name, value in sums.items():
            value = value.detach().to(torch.float64)
            self.logged[name] = self.logged[name] + value if name in self.logged else value


class StudentModule(torch.nn.Module):
    """What DDP and FSDP wrap: backbone and head run inside ``forward`` so that their hooks fire.

    Args:
        student: the model being trained.
        vocab: number of real tokens.
        teacher: frozen teacher, or None; not a sub-module (its weights are not ours to shard).
        extra: further trainable modules of the method.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        vocab: int,
        teacher: TeacherSide | None,
        extra: dict[str, torch.nn.Module],
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.extra = torch.nn.ModuleDict(extra)
        self.tile = tile
        # in lists, so that neither becomes a sub-module or a parameter of this module
        self._teacher = [teacher]
        self._head = [head_of(student, vocab)]

    def forward(
        self, packed: Packed, loss: Callable[[MicroBatch], torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Runs ``loss`` on the micro-batch; returns its scalar and the logged sums."""
        head = self._bound_head()
        hidden = backbone_hidden(self.student, packed)
        micro = MicroBatch(packed, hidden, head, self._teacher[0], self.tile)
        value = loss(micro)
        return value, micro.logged

    def _bound_head(self) -> Head:
        """The head with today's parameters (FSDP swaps them in and out around forward)."""
        head = self._head[0]
        if head.dense:
            return head
        embedding = self.student.get_output_embeddings()
        return replace(head, weight=embedding.weight, bias=getattr(embedding, "bias", None))
