"""How the sequences of an optimiser step become micro-batches on each rank, and those become rows.

Rows are packed back to back, or padded one a row. The last token of a sequence predicts nothing, so
it is a target but never an input. Targets keep the order of the sequences whatever the layout, so
that packed, padded and alone give the same tensors.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdbench.harness.errors import is_out_of_memory
from kdbench.trainers.by_sequence import by_mask
from kdbench.trainers.head.head import backbone_hidden
from kdbench.trainers.parallel.ranks import of_first
from kdbench.trainers.parallel.tensors import is_shared
from kdbench.trainers.types import Packed, Sequence

Unit = Literal["token", "sequence", "group"]
LOCAL = ("window", "local_attention", "attention_chunk")
"""Parts of the names under which configurations say how far a layer's attention sees."""


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
    group stands alone). Groups in which nothing is predicted, such as an answer that was cut before
    it began, are no part of the step.
    """
    mine: list[Piece] = []
    for stream in map(_predicted, window):
        count = stream.count
        if not count:
            continue
        ranks = [_fill(stream.groups[r::world], micro_tokens) for r in range(world)]
        scale, share = stream.weight * world / count, world / count
        mine += [Piece(stream, batch, scale, share) for batch in ranks[rank]]
        missing = max(map(len, ranks)) - len(ranks[rank])
        mine += [Piece(stream, stream.groups[0], 0.0, 0.0)] * missing
    return mine


def _predicted(stream: Stream) -> Stream:
    """The groups of a stream in which something is predicted."""
    groups = tuple(group for group in stream.groups if any(s.targets for s in group))
    return stream if len(groups) == len(stream.groups) else replace(stream, groups=groups)


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
        other = replace(self, pad_id=0)  # an id of any vocabulary
        return rows._replace(twin=other._rows(twins)) if twins else rows

    def _rows(self, sequences: Seq[Sequence]) -> Packed:
        if self.packed:
            row = max([self.row, *(len(s) - 1 for s in sequences)])  # the last token is no input
            rows = pack(sequences, max_tokens=row, pad_id=self.pad_id)
        else:
            rows = pad(sequences, pad_id=self.pad_id)
        moved = {k: v.to(self.device) for k, v in rows.columns.items()}
        fields: list[Any] = [v.to(self.device) if isinstance(v, Tensor) else v for v in rows]
        return Packed(*fields)._replace(columns=moved)


def pack(sequences: Seq[Sequence], *, max_tokens: int, pad_id: int) -> Packed:
    """Lay sequences back to back in as few rows as first-fit decreasing finds.

    Position ids restart with each sequence; transformers (with ``use_cache=False``) and our own
    attention derive from them that sequences must not see each other. What is left of a row is
    filled with meaningless sequences.

    Args:
        sequences: what to lay out; those without a target take no room.
        max_tokens: longest row allowed, in input tokens.
        pad_id: token id for the fill.

    Raises:
        ValueError: a sequence is longer than ``max_tokens``.
    """
    lengths = [_inputs(s) for s in sequences]
    if lengths and max(lengths) > max_tokens:
        raise ValueError(
            f"a sequence of {max(lengths)} input tokens does not fit rows of {max_tokens}: "
            "truncate it or allow longer rows"
        )
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: (-lengths[i], i)):
        if lengths[index] == 0:
            continue
        row = next((r for r, free in enumerate(room) if free >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(max_tokens)
        rows[row].append(index)
        room[row] -= lengths[index]
    return _lay_out(sequences, rows, pad_id=pad_id, mask=False)


def pad(sequences: Seq[Sequence], *, pad_id: int) -> Packed:
    """Lay sequences out one a row, padded on the right, with attention mask and position ids."""
    rows = [[i] for i, sequence in enumerate(sequences) if _inputs(sequence)]
    return _lay_out(sequences, rows, pad_id=pad_id, mask=True)


def _inputs(sequence: Sequence) -> int:
    return len(sequence) - 1 if sequence.targets else 0


def _lay_out(sequences: Seq[Sequence], rows: list[list[int]], *, pad_id: int, mask: bool) -> Packed:
    width = max((sum(_inputs(sequences[i]) for i in row) for row in rows), default=0)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(rows), width), dtype=torch.long)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
    longest = max((_inputs(sequences[i]) for row in rows for i in row), default=1)
    begins: dict[int, int] = {}
    lengths: list[int] = []
    for r, row in enumerate(rows):
        column = 0
        for i in row:
            length = _inputs(sequences[i])
            tokens = (*sequences[i].prompt, *sequences[i].response)[:-1]
            begins[i] = r * width + column
            input_ids[r, column : column + length] = torch.tensor(tokens)
            position_ids[r, column : column + length] = torch.arange(length)
            attention_mask[r, column : column + length] = 1
            lengths.append(length)
            column += length
        # the fill is sequences of its own, so that it never meets the others; none is longer than the longest
        # that means something: learned positions end with the model's context
        lengths += [min(longest, width - at) for at in range(column, width, longest)]
        if not mask:
            position_ids[r, column:] = torch.arange(width - column) % longest
    return Packed(
        input_ids,
        position_ids,
        attention_mask if mask else None,
        *_targets(sequences, begins),
        sequences=tuple(sequences),
        columns=_columns(sequences, begins),
        lengths=() if mask else tuple(lengths),
    )


def _targets(
    sequences: Seq[Sequence], begins: dict[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source, target, owner and place of each target; ``begins``: sequence to flat position."""
    columns: tuple[list[int], ...] = ([], [], [], [])
    source, target, owner, place = columns
    for i, sequence in enumerate(sequences):
        if i in begins:
            skipped = _skipped(sequence)
            first = begins[i] + max(0, len(sequence.prompt) - 1)
            source += range(first, first + sequence.targets)
            target += sequence.response[skipped:]
            owner += [i] * sequence.targets
            place += range(skipped, len(sequence.response))
    source_N, target_N, owner_N, place_N = (torch.tensor(c, dtype=torch.long) for c in columns)
    return source_N, target_N, owner_N, place_N


def _columns(sequences: Seq[Sequence], begins: dict[int, int]) -> dict[str, Tensor]:
    joined = {}
    for name in sorted({name for s in sequences for name in s.columns}):
        parts = [torch.zeros(0)]
        for i, sequence in enumerate(sequences):
            column = sequence.columns.get(name)
            if column is None or len(column) != len(sequence.response):
                raise ValueError(f"sequence {i} lacks a value of column '{name}' for every token")
            if i in begins:
                parts.append(column[_skipped(sequence) :].float())
        joined[name] = torch.cat(parts)
    return joined


def _skipped(sequence: Sequence) -> int:
    """Response tokens that are not targets: the first one of plain text."""
    return len(sequence.response) - sequence.targets


_packs: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Whether packed sequences get the hidden states that each gets alone; probed once a model."""


def is_packable(model: PreTrainedModel, vocab: int) -> bool:
    """Whether a model's rows may be packed; cheap after the first call, which runs a probe.

    Of a shared model a collective.

    Some models ignore position ids, or look across sequences; those must be padded.

    Args:
        model: a causal language model; put into eval mode for the probe, then back.
        vocab: ids below this are used.
    """
    if model not in _packs:
        found = _agrees(model, vocab)
        _packs[model] = of_first(found) if is_shared(model) else found
    return _packs[model]


def crossing(model: PreTrainedModel) -> int:
    """Tokens of a sequence that is longer than what short-sighted layers see, if they see few."""
    named = model.config.get_text_config().to_dict().items()
    sizes = [v for k, v in named if type(v) is int and any(part in k for part in LOCAL)]
    return max([v + 5 for v in sizes if 0 < v <= 64], default=6)


def _agrees(model: PreTrainedModel, vocab: int) -> bool:
    """Whether packed sequences are those that stand alone, by every road that rows may take.

    On a GPU they have a kernel of their own in half precision, and without it (float32, dropout in
    attention) the mask of transformers, which a model may not hand on (OPT, BioGPT).
    """
    if _kind(model) != "cuda":
        return _agree(model, vocab, half=False)
    with by_mask():
        masked = _agree(model, vocab, half=False)
    # in any case: of a shared model all processes make the same passes
    half = _agree(model, vocab, half=True)
    return masked and half


def _kind(model: PreTrainedModel) -> str:
    return next(model.parameters()).device.type


@torch.no_grad()
def _agree(model: PreTrainedModel, vocab: int, *, half: bool) -> bool:
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 3, 7, crossing(model))
    drawn = [torch.randint(vocab, (n,), generator=generator).tolist() for n in lengths]
    sequences = [Sequence(prompt=tuple(ids[:1]), response=tuple(ids[1:])) for ids in drawn]
    was_training = model.training
    model.eval()
    autocast = torch.autocast(_kind(model), dtype=torch.bfloat16, enabled=half)
    try:
        with autocast:
            together = backbone_hidden(model, pack(sequences, max_tokens=sum(lengths), pad_id=0))
            alone = torch.cat([backbone_hidden(model, pad([s], pad_id=0)) for s in sequences])
    except Exception as error:  # of transformers: no position_ids, no attention for such a mask, …
        if is_out_of_memory(error):
            raise
        return False
    finally:
        model.train(was_training)
    half = half or next(model.parameters()).dtype.itemsize == 2
    gap, scale = (together - alone).abs().max(), alone.abs().max().clamp_min(1e-12)
    return bool(gap <= (0.05 if half else 1e-4) * scale)
