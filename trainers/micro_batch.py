"""One micro-batch through teacher and student: the concrete :class:`kdbench.trainers.method.Micro`."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.utils.checkpoint
from transformers import PreTrainedModel

from kdbench.trainers.head.head import Head, backbone_hidden, head_of, sum_dtype
from kdbench.trainers.head.tiles import tiled_sum, token_logprobs
from kdbench.trainers.method import Method, Objective, Widths
from kdbench.trainers.teacher_memory import TeacherMemory
from kdbench.trainers.types import Packed


@dataclass(slots=True)
class TeacherSide:
    """A frozen model with its head; ``memory`` may save its forward pass."""

    model: PreTrainedModel
    head: Head
    memory: TeacherMemory | None = None

    @torch.no_grad()
    def hidden(self, packed: Packed) -> torch.Tensor:
        """Hidden states that predict the targets (of the twins, if there are any), (N, D)."""
        if self.memory is not None:
            return self.memory.hidden(packed)
        return backbone_hidden(self.model, packed.twin or packed)


def frozen_copy(
    student: PreTrainedModel, vocab: int, weights: dict[str, torch.Tensor] | None = None
) -> TeacherSide:
    """A copy of the student as its own teacher; with ``weights``, of what it was at some time."""
    model = copy.deepcopy(student).eval().requires_grad_(False)
    if weights is not None:
        model.load_state_dict(weights)
    return TeacherSide(model, head_of(model, vocab))


def extra_modules(
    method: Method, student: PreTrainedModel, teacher: TeacherSide | None, seed: int
) -> dict[str, torch.nn.Module]:
    """The method's own modules, initialised from the training's seed, in the student's precision."""
    widths = Widths(
        student.config.get_text_config().hidden_size,
        teacher.model.config.get_text_config().hidden_size if teacher else 0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = method.parameters(widths)
    return {name: module.to(student.device, student.dtype) for name, module in made.items()}


@dataclass(slots=True)
class MicroBatch:
    """See :class:`kdbench.trainers.method.Micro`."""

    packed: Packed
    student_hidden_ND: torch.Tensor
    student_head: Head
    teacher: TeacherSide | None
    tile: int | None
    student: PreTrainedModel
    logged: dict[str, torch.Tensor] = field(default_factory=dict)
    _teacher_hidden: torch.Tensor | None = None

    def _teacher_ND(self) -> torch.Tensor:
        assert self.teacher is not None, "this method needs a teacher"
        if self._teacher_hidden is None:
            self._teacher_hidden = self.teacher.hidden(self.packed)
        return self._teacher_hidden

    @property
    def teacher_tokens(self) -> int:
        """Tokens about which the loss asked the teacher, remembered ones included."""
        asked = self._teacher_hidden is not None
        return sum(len(s) for s in self.packed.sequences) if asked else 0

    def sum(self, objective: Objective, *, teacher: bool | TeacherSide) -> torch.Tensor:
        """Sum of a token objective; see the protocol."""
        side = teacher if isinstance(teacher, TeacherSide) else self.teacher if teacher else None
        hidden = None
        if side is not None:  # the run's own teacher is asked once, whatever is computed with it
            hidden = self._teacher_ND() if side is self.teacher else side.hidden(self.packed)
        loss, sums = tiled_sum(
            objective,
            self.student_hidden_ND,
            self.student_head,
            self.packed.target_N,
            teacher_hidden_ND=hidden,
            teacher_head=side.head if side is not None else None,
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
        target_N = (self.packed.twin or self.packed).target_N
        return token_logprobs(hidden, self.teacher.head, target_N, tile=self.tile)

    def student_hidden(self) -> torch.Tensor:
        """Last hidden states of the student at its targets, (N, D), differentiable."""
        return self.student_hidden_ND

    def teacher_hidden(self) -> torch.Tensor:
        """Last hidden states of the teacher at its targets, (N', D')."""
        return self._teacher_ND()

    def together(
        self,
        function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        rows: torch.Tensor,
        teacher_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``function`` of the logits of some targets, all at once; see the protocol."""
        teacher = self.teacher
        assert teacher is not None, "this method needs a teacher"
        other = self._teacher_ND()[rows if teacher_rows is None else teacher_rows]

        def value(hidden_nD: torch.Tensor) -> torch.Tensor:
            wide = sum_dtype(hidden_nD.dtype)
            with torch.no_grad():
                p_nV = teacher.head.logits(other).to(wide)
            return function(self.student_head.logits(hidden_nD).to(wide), p_nV)

        result: torch.Tensor = torch.utils.checkpoint.checkpoint(
            value, self.student_hidden_ND[rows], use_reentrant=False, preserve_rng_state=False
        )
        return result

    def inputs(self) -> list[torch.Tensor]:
        """Input ids of each sequence (all but its last token)."""
        device = self.packed.input_ids_RT.device
        return [
            torch.tensor((*s.prompt, *s.response)[:-1], device=device)
            for s in self.packed.sequences
        ]

    def embed(self, ids: torch.Tensor, *, teacher: bool = False) -> torch.Tensor:
        """Input embeddings of token ids under the student or the teacher."""
        model = self.student
        if teacher:
            assert self.teacher is not None
            model = self.teacher.model
        embedded: torch.Tensor = model.get_input_embeddings()(ids)
        return embedded

    def student_backbone(self, embeddings_BTD: torch.Tensor) -> torch.Tensor:
        """The student's last hidden states for given input embeddings, (B, T, D); right-padded."""
        mask = torch.ones(embeddings_BTD.shape[:2], dtype=torch.long, device=embeddings_BTD.device)
        output: torch.Tensor = self.student.base_model(
            inputs_embeds=embeddings_BTD, attention_mask=mask, use_cache=False
        )[0]
        return output

    def sum_by_sequence(self, values_N: torch.Tensor) -> torch.Tensor:
        """Token values summed a sequence, (B,)."""
        out = values_N.new_zeros(len(self.packed.sequences))
        return out.index_add(0, self.packed.owner_N, values_N)

    def log(self, **sums: torch.Tensor) -> None:
        """Adds detached sums to what the loop logs."""
        for name, value in sums.items():
            value = value.detach().to(torch.float64)
            self.logged[name] = self.logged[name] + value if name in self.logged else value


class StudentModule(torch.nn.Module):
    """What DDP wraps: backbone and head run inside ``forward`` so that their hooks fire.

    Args:
        student: the model being trained.
        vocab: number of real tokens.
        teacher: frozen teacher, or None; not a sub-module (its weights are not ours to train).
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
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
        """Runs ``loss`` on the micro-batch; returns its scalar, the logged sums, teacher tokens."""
        head = self._head[0]
        hidden = backbone_hidden(self.student, packed)
        micro = MicroBatch(packed, hidden, head, self._teacher[0], self.tile, self.student)
        value = loss(micro)
        return value, micro.logged, micro.teacher_tokens
