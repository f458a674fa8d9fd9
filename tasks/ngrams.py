"""How many different n-grams many texts hold, counted exactly in one sort of packed numbers.

An n-gram of up to four words is one 64-bit number: the ranks of its words by frequency, 16 bits each, the
first word highest, so that sorting 4-grams sorts every shorter n-gram at their beginning too. N-grams with
a word that is too rare for 16 bits are sorted by two such numbers instead. All but the sort goes through
the words in blocks that fit a core's cache.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdbench.tasks.words import Numbered

LONGEST = 4
_BITS = 16
_COMMON = 1 << _BITS
_WIDE = np.uint64(31)
_BLOCK = 1 << 15

Numbers = NDArray[np.uint64]


class Counts(NamedTuple):
    """N-grams of one length: how many are different, and how many there are."""

    distinct: int
    total: int


class NGrams:
    """N-grams of 1 to 4 whitespace words; they do not cross texts."""

    def __init__(self) -> None:
        self._words: list[NDArray[np.int32]] = []

    def add(self, words: Numbered) -> None:
        """Keeps the numbers of the words of some texts, all by one `Vocabulary`."""
        # a 0 after each text, and n-grams that hold one are none
        self._words.append(np.insert(words.ids_W, words.ends_T, 0))

    def counts(self) -> dict[int, Counts]:
        """By length, from 1 to `LONGEST`."""
        words_W = np.concatenate([*self._words, np.zeros(LONGEST, np.int32)])
        packed_W = np.zeros(len(words_W) - LONGEST, dtype=np.uint64)
        totals, rare = [0] * LONGEST, []
        for start, grams in _blocks(words_W):
            packed_W[start : start + len(grams[0])] = _common(grams)
            rare.append(_rare(grams))
            for n, gram in enumerate(grams):
                totals[n] += int(np.count_nonzero(gram))
        packed_W.sort()
        common, others = _different_common(packed_W), _different_rare(rare)
        return {n + 1: Counts(common[n] + others[n], totals[n]) for n in range(LONGEST)}


def _blocks(words_W: NDArray[np.int32]) -> Iterator[tuple[int, list[Numbers]]]:
    """Places, and the ranks of the `LONGEST` words from each on: 0 from the end of a text on."""
    rank = _ranks(words_W)
    for start in range(0, len(words_W) - LONGEST, _BLOCK):
        ranks = rank[words_W[start : start + _BLOCK + LONGEST]]
        grams = [ranks[n : len(ranks) - LONGEST + n] for n in range(LONGEST)]
        for n in range(1, LONGEST):
            grams[n] = grams[n] * (grams[n - 1] > 0)
        yield start, grams


def _ranks(words_W: NDArray[np.int32]) -> Numbers:
    """Number of a word -> its rank by frequency from 1; the border between texts stays 0."""
    used = np.bincount(words_W)
    used[0] = len(words_W) + 1
    rank = np.empty(len(used), dtype=np.uint64)
    rank[np.argsort(-used, kind="stable")] = np.arange(len(used), dtype=np.uint64)
    return rank


def _common(grams: Sequence[Numbers]) -> Numbers:
    """N-grams of common words, each cut before its first rare one."""
    packed = np.zeros_like(grams[0])
    whole = np.ones(len(packed), dtype=bool)
    for gram in grams:
        whole &= gram < _COMMON
        packed = (packed << np.uint64(_BITS)) | gram * whole
    return packed


def _different_common(packed_W: Numbers) -> list[int]:
    """Of sorted n-grams: how many begin with different words, for 1 word, 2, up to `LONGEST`."""
    found = [0] * LONGEST
    for start in range(0, len(packed_W), _BLOCK):
        block = packed_W[start : start + _BLOCK]
        changes = np.empty_like(block)
        changes[1:] = block[1:] ^ block[:-1]
        changes[0] = block[0] ^ packed_W[start - 1] if start else ~np.uint64(0)
        for n in range(LONGEST):
            shift = _BITS * (LONGEST - 1 - n)
            held = block & ((_COMMON - 1) << shift)
            found[n] += int(np.count_nonzero((held > 0) & (changes >> shift > 0)))
    return found


def _rare(grams: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """N-grams that hold a rare word, as pairs of numbers of two words each."""
    where = np.logical_or.reduce([gram >= _COMMON for gram in grams])
    one, two, three, four = (gram[where] for gram in grams)
    return (one << _WIDE) | two, (three << _WIDE) | four


def _different_rare(pairs: Sequence[tuple[Numbers, Numbers]]) -> list[int]:
    if not pairs:
        return [0] * LONGEST
    first, second = (np.concatenate(half) for half in zip(*pairs, strict=True))
    order = np.lexsort((second, first))
    mask = (np.uint64(1) << _WIDE) - np.uint64(1)
    words = list(
        chain.from_iterable((half[order] >> _WIDE, half[order] & mask) for half in (first, second))
    )
    found = []
    for n in range(1, LONGEST + 1):
        rare = np.logical_or.reduce([word >= _COMMON for word in words[:n]])
        changes = np.logical_or.reduce([_changes(word) for word in words[:n]])
        found.append(int(np.count_nonzero(changes & rare & (words[n - 1] > 0))))
    return found


def _changes(sorted_: Numbers) -> NDArray[np.bool_]:
    """Where a value differs from the one before it."""
    return np.concatenate([np.ones(min(len(sorted_), 1), dtype=bool), sorted_[1:] != sorted_[:-1]])
