"""Random numbers that are the same on every machine, Python and numpy version.

The world is part of the benchmark, so its draws come from BLAKE2b, not from a library generator
whose stream may change. To draw something new, make a ``Dice`` with a name nobody else uses.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_BLOCK = 8  # numbers of 64 bits in one digest


class Dice:
    """A stream of numbers decided by its names alone.

    Args:
        *names: anything with a stable ``str``; equal names give equal streams.
    """

    def __init__(self, *names: object) -> None:
        self._seed = "\x1f".join(map(str, names)).encode()
        self._block = 0
        self._left: list[int] = []

    def _next(self) -> int:
        if not self._left:
            digest = hashlib.blake2b(self._seed + self._block.to_bytes(8, "little")).digest()
            self._left = [
                int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_BLOCK)
            ]
            self._block += 1
        return self._left.pop()

    def unit(self) -> float:
        """A float in [0, 1) with 53 random bits."""
        return (self._next() >> 11) * 2.0**-53

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return self._next() * n >> 64

    def choice(self, items: Sequence[T]) -> T:
        """One of ``items``, each as likely."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One of ``items`` by weight (weights need not sum to one)."""
        left = self.unit() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """``k`` different places of ``items``, in random order."""
        pool = list(items)
        for i in range(k):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]


def bucket(text: str, n: int) -> int:
    """The stable bucket of a text in [0, n); decides which split a prompt belongs to."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % n
