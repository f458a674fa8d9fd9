"""A micro-batch on its way through student and teacher: what a method's loss computes with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from transformers import PreTrainedModel

from kdbench.trainers.head.head import Head, backbone_hidden, backbone_of, head_of, sum_dtype
from kdbench.trainers.head.tiles import tiled_sum, token_logprobs
from kdbench.trainers.objectives.divergences import Values
from kdbench.trainers.teacher import TeacherSide
from kdbench.trainers.types import Packed

Sums = Mapping[str, Tensor]
"""Scalars, summed over a micro-batch: ``loss`` is minimised, every other entry only logged."""


@dataclass(eq=False)
class MicroBatch:
    """Some sequences of one stream, laid out in rows, with the student's forward pass done.

    Nothing here is (rows, positions, vocabulary): both heads run in tiles over the targets.

    Attributes:
        packed: the rows; ``packed.columns`` are what the window attached to each target.
        student: the model.
        student_head: how those become logits.
        student_hidden_ND: the student's last hidden state at each target, differentiable.
        side: the frozen teacher with its head, or None; methods read ``teacher``.
        tile: rows of a tile of the heads; None: by vocabulary size.
        in_step: the student is shared, so that each process must make as many passes as the others.
    """

    packed: Packed
    student: PreTrainedModel
    student_head: Head
    side: TeacherSide | None
    tile: int | None = None
    in_step: bool = False

    def __post_init__(self) -> None:
        self.student_hidden_ND = backbone_hidden(self.student, self.packed)
        self._teacher_hidden: Tensor | None = None

    @property
    def teacher(self) -> TeacherSide:
        """The frozen teacher with its head."""
        assert self.side is not None, "this method needs a teacher"
        return self.side

    @property
    def teacher_tokens(self) -> int:
        """Tokens about which the loss asked the teacher, remembered ones included."""
        asked = self._teacher_hidden is not None
        return sum(len(s) for s in self.packed.sequences) if asked else 0

    def sum(
        self, objective: Callable[..., Values], *, teacher: bool | TeacherSide, **options: Any
    ) -> dict[str, Tensor]:
        """Sums of a token objective over the micro-batch, streamed through the heads in tiles.

        Args:
            objective: pure function of a tile's logits; see `kdbench.trainers.objectives`.
            teacher: True, False, or what `Context.copy_student` returned.
            options: keywords of the objective.

        Returns:
            What the objective names: ``loss`` differentiable, the others detached.
        """
        side = teacher if isinstance(teacher, TeacherSide) else self.teacher if teacher else None
        hidden = None
        if side is not None:  # the run's own teacher is asked once, whatever is computed with it
            own = side is self.side
            hidden = self.teacher_hidden() if own else side.hidden(self.packed)
        loss, sums = tiled_sum(
            partial(objective, **options),
            self.student_hidden_ND,
            self.student_head,
            self.packed.target_N,
            teacher_hidden_ND=hidden,
            teacher_head=side.head if side is not None else None,
            columns=self.packed.columns,
            tile=self.tile,
        )
        return sums | {"loss": loss}

    def logprobs(self) -> Tensor:
        """Log q(target) for each target token, (N,), differentiable."""
        return token_logprobs(
            self.student_hidden_ND, self.student_head, self.packed.target_N, tile=self.tile
        )

    @torch.no_grad()
    def teacher_logprobs(self) -> Tensor:
        """Log p(target) for each of the teacher's targets, (N,)."""
        target_N = (self.packed.twin or self.packed).target_N
        return token_logprobs(self.teacher_hidden(), self.teacher.head, target_N, tile=self.tile)

    def teacher_hidden(self) -> Tensor:
        """The teacher's last hidden state at each of its targets, (N', D').

        N' differs from N if the teacher has a tokenizer of its own.
        """
        if self._teacher_hidden is None:
            self._teacher_hidden = self.teacher.hidden(self.packed)
        return self._teacher_hidden

    def together(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        rows: Tensor,
        teacher_rows: Tensor | None = None,
    ) -> Tensor:
        """``function(student_logits (n, V), teacher_logits (n', V'))`` of some targets at once.

        For objectives that compare rows with each other; keep n to some hundred. The logits are not
        kept but recomputed in backward.
        """
        other = self.teacher_hidden()[rows if teacher_rows is None else teacher_rows]

        def value(hidden_nD: Tensor) -> Tensor:
            wide = sum_dtype(hidden_nD.dtype)
            with torch.no_grad():
                p_nV = self.teacher.head.logits(other).to(wide)
            return function(self.student_head.logits(hidden_nD).to(wide), p_nV)

        return torch.utils.checkpoint.checkpoint(
            value, self.student_hidden_ND[rows], use_reentrant=False, preserve_rng_state=False
        )

    def sum_by_sequence(self, values_N: Tensor) -> Tensor:
        """Token values added up to one number a sequence, (B,)."""
        out = values_N.new_zeros(len(self.packed.sequences))
        return out.index_add(0, self.packed.owner_N, values_N)

    def by_sequence(self, values_N: Tensor) -> tuple[Tensor, ...]:
        """Token values of each sequence, (L, …) each: targets lie in the order of the sequences."""
        return values_N.split(self.lengths().tolist())

    def lengths(self) -> Tensor:
        """Targets of each sequence, (B,)."""
        return torch.bincount(self.packed.owner_N, minlength=len(self.packed.sequences))

    def inputs(self) -> list[Tensor]:
        """Input ids of each sequence (all but its last token)."""
        device = self.packed.input_ids_RT.device
        rows = [(*s.prompt, *s.response)[:-1] for s in self.packed.sequences]
        return [torch.tensor(row, device=device) for row in rows]

    def embed(self, ids: Tensor, *, teacher: bool = False) -> Tensor:
        """Input embeddings of token ids under the student or the teacher."""
        model = self.teacher.model if teacher else self.student
        return model.get_input_embeddings()(ids)

    def student_backbone(self, embeddings: list[Tensor]) -> list[Tensor]:
        """The student's last hidden states for given input embeddings, (T, D) each."""
        if not self.in_step:
            return [self._read(each_TD[None])[0] for each_TD in embeddings]
        # one pass, as on every process; to the right of a sequence nothing changes it
        read_BTD = self._read(torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True))
        return [read_TD[: len(e)] for read_TD, e in zip(read_BTD, embeddings, strict=True)]

    def _read(self, embeddings_BTD: Tensor) -> Tensor:
        mask = torch.ones(embeddings_BTD.shape[:2], dtype=torch.long, device=embeddings_BTD.device)
        states: Tensor = backbone_of(self.student)(
            inputs_embeds=embeddings_BTD, attention_mask=mask, use_cache=False
        )[0]
        return states


class StudentModule(torch.nn.Module):
    """What DDP wraps: backbone and head run inside ``forward`` so that their hooks fire.

    Args:
        student: the model being trained.
        vocab: number of real tokens.
        extra: further trainable modules of the method.
        tile: rows of a tile of the heads; None: by vocabulary size.

    Attributes:
        side: the frozen teacher; no sub-module, for its weights are not ours to train.
        in_step: whether each process must make as many passes through the student as the others.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        vocab: int,
        extra: dict[str, torch.nn.Module],
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.extra = torch.nn.ModuleDict(extra)
        self.tile = tile
        self.vocab = vocab
        self.side: TeacherSide | None = None
        self.in_step = False

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The frozen teacher."""
        return None if self.side is None else self.side.model

    def forward(self, packed: Packed, loss: Callable[[MicroBatch], Sums]) -> tuple[Sums, int]:
        """What ``loss`` makes of the micro-batch, and about how many tokens it asked the teacher."""
        # anew each time: with an adapter on it, the head's weight is computed from others
        head = head_of(self.student, self.vocab)
        micro = MicroBatch(packed, self.student, head, self.side, self.tile, self.in_step)
        return loss(micro), micro.teacher_tokens
