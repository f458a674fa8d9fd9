"""A bounded memory of responses, first in first out."""

from typing import Any

from kdbench.trainers.checkpoint import pack_sequences, unpack_sequences
from kdbench.trainers.responses import drawn
from kdbench.trainers.types import Sequence


class Replay:
    """The newest ``capacity`` responses over all ranks (the authors' codes count per rank)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: list[Sequence] = []

    @property
    def full(self) -> bool:
        """Whether the next response pushes one out."""
        return len(self.items) >= self.capacity

    def push(self, sequences: list[Sequence]) -> None:
        """Adds responses, dropping the oldest beyond the capacity."""
        self.items = [*self.items, *sequences][-self.capacity :]

    def sample(self, seed: int, step: int, count: int) -> list[Sequence]:
        """``count`` remembered responses, without repetition as long as there are enough.

        A function of (seed, step) and the content, so that all ranks draw the same.
        """
        keys = drawn(seed, step, 11, len(self.items))
        order = sorted(range(len(self.items)), key=keys.__getitem__)
        return [self.items[order[i % len(order)]] for i in range(count)]

    def state_dict(self) -> dict[str, Any]:
        """The responses."""
        return pack_sequences(self.items)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the responses."""
        self.items = unpack_sequences(state)
