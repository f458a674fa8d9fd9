"""A frozen model to learn from: the teacher, or a copy of the student; and what is remembered of it.

Papers train ten epochs and more on the same rows, and PPO passes four times over its rollouts; the
teacher is frozen, so every pass but the first repeats what is known. Kept are final hidden states
at the targets, (targets, D), never logits.

A resumed run starts with an empty memory, and a forward pass rounds differently in other company.
Rows are therefore computed in *blocks* that are fixed beforehand, whenever one of the block's rows
is first asked for: what is remembered does not depend on when it was computed.
"""

import copy
from collections.abc import Sequence as Seq
from dataclasses import KW_ONLY, dataclass, replace
from typing import Protocol

import torch
from transformers import PreTrainedModel

from kdbench.trainers.batching import Layout, micro_batches
from kdbench.trainers.head.head import Head, backbone_hidden, head_of, width_of
from kdbench.trainers.optim import Recipe
from kdbench.trainers.parallel.tensors import gathered, is_shared
from kdbench.trainers.types import Packed, Sequence

Key = tuple[tuple[int, ...], tuple[int, ...]]


class Remembered(Protocol):
    """What stands between a frozen model and whoever asks for its hidden states."""

    def hidden(self, packed: Packed) -> torch.Tensor:
        """The model's hidden states for the targets of a micro-batch, (N, D)."""


@dataclass(slots=True)
class TeacherSide:
    """A frozen model with its head.

    ``memory`` may save its forward pass, or stand for it: then the model may have no values. ``shared``
    names weights of the model that it shares with the student, since they never change.
    """

    model: PreTrainedModel
    head: Head
    memory: "Remembered | None" = None
    shared: frozenset[str] = frozenset()

    def weights(self) -> dict[str, torch.Tensor]:
        """What it takes to make a copy of the student again; see `frozen_copy`.

        Of a shared model a collective: the first process has the values, on the host, and the others none.
        """
        own = {n for n, _ in self.model.named_parameters(remove_duplicate=False)} - self.shared
        own |= {n for n, _ in self.model.named_buffers()}
        # a layer in four bits names more than it has
        held = {n: t for n, t in self.model.state_dict().items() if n in own}
        return gathered(held) if is_shared(self.model) else held

    @torch.no_grad()
    def hidden(self, packed: Packed) -> torch.Tensor:
        """Hidden states that predict the targets (of the twins, if there are any), (N, D)."""
        if self.memory is not None:
            return self.memory.hidden(packed)
        return backbone_hidden(self.model, packed.twin or packed)


def teacher_side(
    model: PreTrainedModel, head: Head, layout: Layout, recipe: Recipe, *, alike: bool
) -> TeacherSide:
    """The frozen teacher, with a memory where one can pay.

    Not with a tokenizer of its own (``alike`` False), since aligning texts costs more than could be
    saved, nor with a dense head, since what would be kept are logits, as wide as the vocabulary.
    """
    if head.dense or not alike:
        return TeacherSide(model, head)
    limit = int(recipe.teacher_memory_gb * 2**30)
    memory = TeacherMemory(model, layout, micro_tokens=recipe.micro_tokens, limit=limit)
    return TeacherSide(model, head, memory)


def frozen_copy(
    student: PreTrainedModel, vocab: int, weights: dict[str, torch.Tensor] | None = None
) -> TeacherSide:
    """A copy of the student as its own teacher; with ``weights``, of what it was at some time.

    What the student does not train is not copied.
    """
    named = student.named_parameters(remove_duplicate=False)
    frozen = {name: p for name, p in named if not p.requires_grad}
    model = copy.deepcopy(student, {id(p): p for p in frozen.values()})
    model.eval().requires_grad_(False)
    if weights is not None:
        model.load_state_dict(weights, strict=not frozen)
    return TeacherSide(model, head_of(model, vocab), shared=frozenset(frozen))


@dataclass(eq=False)
class TeacherMemory:
    """Hidden states by the content of a sequence.

    Args:
        model: the frozen teacher, with the student's tokenizer and a head that is not dense.
        layout: lays sequences out in rows, on the teacher's device.
        micro_tokens: tokens of one forward pass.
        limit: bytes that may be kept, on the host; rows that do not fit are not kept at all.
    """

    model: PreTrainedModel
    layout: Layout
    _: KW_ONLY
    micro_tokens: int
    limit: int

    def __post_init__(self) -> None:
        self._shelves: dict[str, _Shelf] = {}

    def keep(self, name: str, blocks: Seq[Seq[Sequence]]) -> None:
        """Announces rows that will be read several times; replaces what was announced as ``name``.

        Args:
            name: of the collection of rows.
            blocks: what is computed together; of equal rows the first counts.
        """
        shelf = _Shelf([[replace(s, columns={}) for s in block] for block in blocks])
        self._shelves.pop(name, None)
        if sum(s.size(self.model) for s in (shelf, *self._shelves.values())) <= self.limit:
            self._shelves[name] = shelf

    def hidden(self, packed: Packed) -> torch.Tensor:
        """The teacher's hidden states for the targets of a micro-batch, (N, D)."""
        known = [self._recall(s) for s in packed.sequences]
        fresh = [s for s, k in zip(packed.sequences, known, strict=True) if k is None]
        if len(fresh) == len(known):
            return backbone_hidden(self.model, packed)
        computed = iter(self._forward(fresh))
        device = packed.target_N.device
        return torch.cat([next(computed) if k is None else k.to(device) for k in known])

    def _recall(self, sequence: Sequence) -> torch.Tensor | None:
        for shelf in self._shelves.values():
            if (place := shelf.places.get(_key(sequence))) is not None:
                number, inside = place
                if number not in shelf.hidden:
                    shelf.hidden[number] = [h.cpu() for h in self._forward(shelf.blocks[number])]
                return shelf.hidden[number][inside]
        return None

    def _forward(self, sequences: Seq[Sequence]) -> list[torch.Tensor]:
        return hidden_of(self.model, self.layout, sequences, self.micro_tokens)


def hidden_of(
    model: PreTrainedModel, layout: Layout, sequences: Seq[Sequence], micro_tokens: int
) -> list[torch.Tensor]:
    """Hidden states that predict the targets of each sequence, computed in their order."""
    out: list[torch.Tensor] = []
    for batch in micro_batches([replace(s, columns={}) for s in sequences], micro_tokens):
        hidden = backbone_hidden(model, layout(batch))
        out += hidden.split([s.targets for s in batch])
    return out


class _Shelf:
    """Announced rows, and the blocks computed so far."""

    def __init__(self, blocks: list[list[Sequence]]) -> None:
        self.blocks = blocks
        self.places: dict[Key, tuple[int, int]] = {}
        for number, block in enumerate(blocks):
            for inside, sequence in enumerate(block):
                self.places.setdefault(_key(sequence), (number, inside))
        self.hidden: dict[int, list[torch.Tensor]] = {}

    def size(self, model: PreTrainedModel) -> int:
        """Bytes when all blocks are computed, at most."""
        targets = sum(s.targets for block in self.blocks for s in block)
        weight = next(model.parameters())
        width = width_of(model)
        return targets * width * element_size(weight.dtype, weight.device.type)


def element_size(dtype: torch.dtype, device: str) -> int:
    """Bytes of an element of hidden states, at most, for a model of this dtype on this device type.

    Under autocast on CUDA a last LayerNorm gives float32 whatever its weights are.
    """
    return max(dtype.itemsize, 4) if device == "cuda" else dtype.itemsize


def _key(sequence: Sequence) -> Key:
    return sequence.prompt, sequence.response
