"""A teacher read from disk: its head in memory, what the head reads in shards."""

from collections.abc import Mapping, Set
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import read_json, write_json
from kdbench.trainers.batching import Layout
from kdbench.trainers.checkpoint import storing
from kdbench.trainers.head.head import Head, width_of
from kdbench.trainers.head.partial import known_part
from kdbench.trainers.head.tiles import default_rows
from kdbench.trainers.store.settings import ROUNDED, likeliest
from kdbench.trainers.store.shelf import ROWS, Shelf
from kdbench.trainers.teacher import TeacherSide, hidden_of
from kdbench.trainers.types import Packed, Sequence

HEAD = "head.safetensors"
NUMBERS = "head.json"
Key = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captor:
    """A teacher in memory that fills shelves.

    Args:
        side: the teacher with its whole head.
        layout: lays rows out, on its device.
        micro_tokens: tokens of a forward pass. Which rows share one depends on this and the shard alone.
        kind: what is kept, see `kdbench.trainers.store.settings`.
        vocab: tokens that student and teacher share.
    """

    side: TeacherSide
    layout: Layout
    micro_tokens: int
    kind: str
    vocab: int

    @torch.no_grad()
    def tensors(self, rows: Seq[Sequence]) -> dict[str, Tensor]:
        """What is stored of some rows; on a GPU under the caller's autocast."""
        found = hidden_of(self.side.model, self.layout, rows, self.micro_tokens)
        hidden_ND = torch.cat(found) if found else torch.zeros(0, width_of(self.side.model))
        if known := likeliest(self.kind):
            head = replace(self.side.head, vocab=self.vocab)
            tiles = hidden_ND.split(default_rows(self.vocab, hidden_ND.device))
            return {"known": torch.cat([known_part(head.logits(tile), known) for tile in tiles])}
        return {"hidden": hidden_ND.bfloat16() if self.kind == ROUNDED else hidden_ND}


@dataclass(eq=False)
class StoredStates:
    """What a teacher gives at rows that are on shelves; in place of a `TeacherMemory`.

    Args:
        shelves: where the rows are; of equal ones the first that is filled counts.
        head: the teacher's, whole, on the training's device, or what stands for it (`known_head`).
        method: whose training reads them, for sentences.
        shards: of each shelf, those that are filled; None: all.
    """

    shelves: Seq[Shelf]
    head: Head
    method: str = "the method"
    shards: Seq[Set[int]] | None = None

    def __post_init__(self) -> None:
        self._places: dict[Key, tuple[Shelf, int, int, int]] = {}
        for shelf, filled in zip(self.shelves, self.shards or repeat(None), strict=False):
            begin = 0
            for index, row in enumerate(shelf.rows):
                begin = begin if index % ROWS else 0
                place = (shelf, index // ROWS, begin, begin + row.targets)
                if filled is None or index // ROWS in filled:
                    self._places.setdefault((row.prompt, row.response), place)
                begin += row.targets

    def hidden(self, packed: Packed) -> Tensor:
        """What the head reads for the targets of a micro-batch, (N, D).

        Raises:
            InputError: a sequence is on no shelf.
            Damaged: what is on the disk is not as it was written.
        """
        device = packed.target_N.device
        parts = [self._read(s) for s in packed.sequences if s.targets]
        if not parts:
            weight = self.head.weight
            width = 2 * self.head.known + 1 if weight is None else weight.shape[1]
            return torch.zeros(0, width, device=device)
        return torch.cat(parts).to(device)

    def _read(self, sequence: Sequence) -> Tensor:
        place = self._places.get((sequence.prompt, sequence.response))
        if place is None:
            raise InputError(
                f"{self.method} asks the teacher about a sequence that is in no store (a response of the "
                "student, or text of the method's own); train it with the teacher in memory: "
                "teacher.store=none"
            )
        shelf, number, begin, end = place
        (found,) = shelf.read(number, begin, end).values()
        return found


def known_head(kind: str, vocab: int) -> Head:
    """What stands for a head where likeliest tokens are kept."""
    return Head(None, None, 1.0, None, vocab, known=likeliest(kind))


def write_head(head: Head, folder: Path) -> None:
    """Keeps a whole head in a folder."""
    tensors = {"weight": head.weight, "bias": head.bias}
    there = {n: t.detach().cpu().contiguous() for n, t in tensors.items() if t is not None}
    with storing(folder / HEAD):
        save_file(there, folder / HEAD)
    write_json(folder / NUMBERS, {"scale": head.scale, "softcap": head.softcap})


def read_head(folder: Path, device: torch.device) -> Head:
    """The head that `write_head` kept, over all its columns."""
    tensors: Mapping[str, Tensor] = load_file(folder / HEAD)
    # in memory of its own: what is mapped may be unaligned, which changes the last bits of products
    own = {name: tensor.clone().to(device) for name, tensor in tensors.items()}
    numbers = read_json(folder / NUMBERS)
    weight = own["weight"]
    return Head(weight, own.get("bias"), numbers["scale"], numbers["softcap"], weight.shape[0])
