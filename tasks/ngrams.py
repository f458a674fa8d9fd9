"""How many different n-grams many texts hold, counted exactly in one sort of packed numbers.

An n-gram of up to four words is one 64-bit number: the ranks of its words by frequency, 15 bits each, the
first word highest, so that sorting 4-grams sorts every shorter n-gram at their beginning too. N-grams with
a word that is too rare for 15 bits are sorted by two such numbers instead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdbench.tasks.words import parted

LONGEST = 4
_BITS = 15
_COMMON = 1 << _BITS
_WIDE = 31
_WHITE = bytes(32 if chr(byte).isspace() else byte for byte in range(256))

Numbers = NDArray[np.int64]


class Counts(NamedTuple):
    """N-grams of one length: how many are different, and how many there are."""

    distinct: int
    total: int


class NGrams:
    """N-grams of 1 to 4 whitespace words; they do not cross texts."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._words: list[NDArray[np.int32]] = []

    def add(self, texts: Sequence[str]) -> None:
        """Parts texts into words, as ``str.split`` does, and keeps the numbers of the words."""
        words = parted([_spaced(text) for text in texts])
        ids_W = np.array([self._known(word) for word in words.known], dtype=np.int32)[
            words.places_W
        ]
        kept_W = ids_W > 0
        after_T = np.concatenate([[0], np.cumsum(kept_W)])[words.ends_T]
        # a 0 after each text, and n-grams that hold one are none
        self._words.append(np.insert(ids_W[kept_W], after_T, 0))

    def counts(self) -> dict[int, Counts]:
        """By length, from 1 to `LONGEST`."""
        words_W = np.concatenate([*self._words, np.zeros(LONGEST, np.int32)])
        ranks_W = _ranks(words_W)[words_W]
        grams = [ranks_W[n : len(ranks_W) - LONGEST + n] for n in range(LONGEST)]
        for n in range(1, LONGEST):  # what follows the end of a text is none of it
            grams[n] = np.where(grams[n - 1] > 0, grams[n], 0)
        common, rare = _common(grams), _rare(grams)
        totals = [int(np.count_nonzero(gram)) for gram in grams]
        return {
            n: Counts(_different_common(common, n) + _different_rare(*rare, n), totals[n - 1])
            for n in range(1, LONGEST + 1)
        }

    def _known(self, word: str) -> int:
        return self._ids.setdefault(word, len(self._ids) + 1) if word else 0


def _spaced(text: str) -> bytes:
    """A text whose white space is ASCII's one space."""
    if text.isascii():
        return text.encode().translate(_WHITE)
    return " ".join(text.split()).encode("utf-8", "replace")


def _ranks(words_W: NDArray[np.int32]) -> Numbers:
    """Number of a word -> its rank by frequency from 1; the border between texts stays 0."""
    used = np.bincount(words_W)
    used[0] = len(words_W) + 1
    rank = np.empty(len(used), dtype=np.int64)
    rank[np.argsort(-used, kind="stable")] = np.arange(len(used))
    return rank


def _common(grams: Sequence[Numbers]) -> Numbers:
    """Sorted n-grams of common words, each cut before its first rare one."""
    packed = np.zeros_like(grams[0])
    whole = np.ones(len(packed), dtype=bool)
    for gram in grams:
        whole &= gram < _COMMON
        packed = (packed << _BITS) | np.where(whole, gram, 0)
    packed.sort()
    return packed


def _different_common(packed: Numbers, n: int) -> int:
    beginning = packed >> (_BITS * (LONGEST - n))
    whole = (beginning & (_COMMON - 1)) > 0
    return int(np.count_nonzero(whole & _changes(beginning)))


def _rare(grams: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """Sorted n-grams that hold a rare word, as pairs of numbers of two words each."""
    where = np.logical_or.reduce([gram >= _COMMON for gram in grams])
    one, two, three, four = (gram[where] for gram in grams)
    first, second = (one << _WIDE) | two, (three << _WIDE) | four
    order = np.lexsort((second, first))
    return first[order], second[order]


def _different_rare(first: Numbers, second: Numbers, n: int) -> int:
    mask = (1 << _WIDE) - 1
    words = [first >> _WIDE, first & mask, second >> _WIDE, second & mask][:n]
    rare = np.logical_or.reduce([word >= _COMMON for word in words])
    changes = np.logical_or.reduce([_changes(word) for word in words])
    return int(np.count_nonzero(changes & rare & (words[-1] > 0)))


def _changes(sorted_: Numbers) -> NDArray[np.bool_]:
    """Where a value differs from the one before it."""
    return np.concatenate([np.ones(min(len(sorted_), 1), dtype=bool), sorted_[1:] != sorted_[:-1]])
