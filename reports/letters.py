"""Letters for methods, so that two share one exactly where they cannot be told apart.

A pair has an error of its own, so two methods may be told apart that stand between two that may not: runs
of neighbours say too much. A letter is a set of methods of which no two can be told apart, as large as can
be; they are found by insert and absorb (Piepho, Journal of Computational and Graphical Statistics 13(2),
2004, doi:10.1198/1061860043515), and those without which every pair still has its letter are swept out.
"""

import itertools
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
NAMES = string.ascii_lowercase + string.ascii_uppercase + GREEK
FURTHER = 0x100
"""Code point of the names after these: Latin Extended. A name is one character, so sharing one is simple."""


def letters(same_MM: NDArray[np.bool_], order: Sequence[int]) -> list[str]:
    """The letters of each method.

    Args:
        same_MM: which two cannot be told apart; symmetric, true on the diagonal.
        order: the methods, the best first, which has the first letter.
    """
    same = same_MM[np.ix_(order, order)]
    groups = sorted(sorted(group) for group in _swept(_cliques(same)))
    found = [""] * len(order)
    for index, group in enumerate(groups):
        for place in group:
            found[order[place]] += _name(index)
    return found


def _name(index: int) -> str:
    return NAMES[index] if index < len(NAMES) else chr(FURTHER + index - len(NAMES))


def _cliques(same: NDArray[np.bool_]) -> list[frozenset[int]]:
    """The largest sets of places of which no two are apart."""
    rows = len(same)
    groups = [frozenset(range(rows))]
    for place in range(rows):
        apart = frozenset(np.flatnonzero(~same[place]).tolist())
        split = [
            part
            for group in groups
            for part in ((group - {place}, group - apart) if place in group else (group,))
        ]
        groups = []
        for group in sorted(set(split), key=lambda each: (-len(each), sorted(each))):
            if not any(group <= other for other in groups):
                groups.append(group)
    return groups


def _swept(groups: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """The groups without those whose every pair is in another one, the smallest going first."""
    pairs = Counter(pair for group in groups for pair in _pairs(group))
    kept = list(groups)
    for group in sorted(groups, key=lambda each: (len(each), sorted(each))):
        own = list(_pairs(group))
        if all(pairs[pair] > 1 for pair in own):
            pairs.subtract(own)
            kept.remove(group)
    return kept


def _pairs(group: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Pairs of a group, each place with itself among them: one alone has a letter, too."""
    return itertools.combinations_with_replacement(sorted(group), 2)
