"""How the sequences of an optimiser step become micro-batches on each rank, and those become rows."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch

from kdbench.trainers.packing import pack, pad
from kdbench.trainers.types import Packed, Sequence

Unit = Literal["token", "sequence", "group"]


@dataclass(frozen=True, slots=True)
class Stream:
    """One named loss of an optimiser step: groups of sequences that belong together.

    The loop minimises ``weight * sum over groups / count`` where ``count`` is the number of target
    tokens, sequences or groups (``unit``) of the *whole* step over all ranks. Sequences of a group
    always share a micro-batch.
    """

    name: str
    groups: tuple[tuple[Sequence, ...], ...]
    unit: Unit = "token"
    weight: float = 1.0

    @classmethod
    def of(
        cls, name: str, sequences: Seq[Sequence], *, unit: Unit = "token", weight: float = 1.0
    ) -> Self:
        """A stream of independent sequences, each a group of its own."""
        return cls(name, tuple((s,) for s in sequences), unit, weight)

    @property
    def sequences(self) -> list[Sequence]:
        """All of them, in order."""
        return [s for group in self.groups for s in group]

    @property
    def targets(self) -> int:
        """Tokens that are predicted."""
        return sum(s.targets for group in self.groups for s in group)

    @property
    def count(self) -> int:
        """Number of units."""
        if self.unit == "group":
            return len(self.groups)
        return len(self.sequences) if self.unit == "sequence" else self.targets


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch: some groups of one stream.

    Args:
        stream: whose.
        sequences: its part of them.
        scale: what its summed loss is multiplied with before backward: weight · ranks / count,
            since backends average gradients over ranks.
        share: the same without the weight; what its sums are multiplied with to be logged. 0 marks a
            filler that keeps ranks in step.
    """

    stream: Stream
    sequences: tuple[Sequence, ...]
    scale: float
    share: float


def pieces(window: Seq[Stream], *, micro_tokens: int, rank: int, world: int) -> list[Piece]:
    """The micro-batches of ``rank``; every rank gets equally many, so that collectives line up.

    Groups are dealt to ranks in turn and filled greedily up to ``micro_tokens`` tokens (a larger
    group stands alone).
    """
    mine: list[Piece] = []
    for stream in window:
        count = stream.count
        if not count:
            continue
        ranks = [_fill(stream.groups[r::world], micro_tokens) for r in range(world)]
        scale, share = stream.weight * world / count, world / count
        mine += [Piece(stream, batch, scale, share) for batch in ranks[rank]]
        missing = max(map(len, ranks)) - len(ranks[rank])
        mine += [Piece(stream, stream.groups[0], 0.0, 0.0)] * missing
    return mine


def micro_batches(sequences: Seq[Sequence], budget: int) -> list[tuple[Sequence, ...]]:
    """Consecutive sequences in batches of at most ``budget`` tokens (at least one sequence each)."""
    return _fill([(s,) for s in sequences], budget)


def _fill(groups: Seq[Seq[Sequence]], budget: int) -> list[tuple[Sequence, ...]]:
    batches: list[list[Sequence]] = []
    used = budget
    for group in groups:
        size = sum(len(s) for s in group)
        if not batches or used + size > budget:
            batches.append([])
            used = 0
        batches[-1] += group
        used += size
    return [tuple(b) for b in batches]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How sequences become rows.

    Args:
        row: input tokens of a packed row; a longer sequence makes longer rows.
        packed: False pads instead, one sequence a row.
    """

    row: int
    pad_id: int
    packed: bool
    device: torch.device
    tile: int | None = None

    def __call__(self, sequences: Seq[Sequence]) -> Packed:
        """Rows of these sequences, on the device, and of their twins."""
        rows = self._rows(sequences)
        twins = [s.twin for s in sequences if s.twin is not None]
        if not twins:
            return rows
        other = replace(self, pad_id=0)  # an id of any vocabulary
        return rows._replace(twin=other._rows(twins))

    def _rows(self, sequences: Seq[Sequence]) -> Packed:
        if self.packed:
            longest = max((len(s) - 1 for s in sequences), default=0)  # the last is no input
            row = max(self.row, longest)
            rows = pack(list(sequences), max_tokens=row, pad_id=self.pad_id)
        else:
            rows = pad(list(sequences), pad_id=self.pad_id)
        moved = {k: v.to(self.device) for k, v in rows.columns.items()}
        tensors: dict[str, Any] = {
            k: v.to(self.device) for k, v in rows._asdict().items() if isinstance(v, torch.Tensor)
        }
        return rows._replace(**tensors, columns=moved)
