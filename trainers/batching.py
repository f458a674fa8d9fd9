"""How a window of sequences becomes micro-batches on each rank, and the learning-rate schedule."""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from kdbench.trainers.method import Stream
from kdbench.trainers.types import Sequence


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch: some groups of one stream. ``scale`` 0 marks a filler that keeps ranks in step."""

    stream: Stream
    sequences: tuple[Sequence, ...]
    scale: float


def pieces(window: Seq[Stream], *, micro_tokens: int, rank: int, world: int) -> list[Piece]:
    """The micro-batches of ``rank``; every rank gets equally many, so that collectives line up.

    Groups are dealt to ranks in turn and filled greedily up to ``micro_tokens`` tokens (a larger
    group stands alone). ``scale`` = weight · world / count: backends average gradients over ranks.
    """
    mine: list[Piece] = []
    for stream in window:
        if not stream.count:
            continue
        scale = stream.weight * world / stream.count
        per_rank = [_fill(stream.groups[r::world], micro_tokens) for r in range(world)]
        mine += [Piece(stream, batch, scale) for batch in per_rank[rank]]
        filler = stream.groups[0]
        most = max(len(b) for b in per_rank)
        mine += [Piece(stream, filler, 0.0)] * (most - len(per_rank[rank]))
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


def learning_rate(
    step: int, progress: float, *, peak: float, warmup_steps: int, schedule: str, floor: float
) -> float:
    """Rate of a step: linear warm-up over steps, then by the fraction of the budget used.

    Args:
        step: optimiser step, 0-based.
        progress: fraction of the budget used before this step, in [0, 1].
        peak: highest rate.
        warmup_steps: steps of linear warm-up (0: none).
        schedule: ``constant``, ``linear``, ``cosine``, or ``cosine-rise``, a cosine that is at the floor
            after two thirds of the budget and rises again to half the peak (the DPKD script's period
            of 20 epochs in a run of 30).
        floor: rate at the end of cosine and linear (MiniLLM's SFT scripts: 1e-7).
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    fraction = min(1.0, progress)
    if schedule == "cosine-rise":
        fraction *= 1.5
    shape = 1 - fraction if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * fraction))
    return floor + (peak - floor) * shape
