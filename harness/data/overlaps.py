"""Rows that occur in more than one split, or twice in one: reported, never filtered.

`overlaps` counts rows that are equal, `shared_ngrams` test prompts that training rows nearly repeat:
shared runs of words, counted fast. A prompt is found when at least half of its n-grams of words occur
in the training rows, prompts and answers alike; one too short to have an n-gram, when a training row
asks the same words. Words are runs of letters and digits, lower-cased, and each character of scripts that
part no words by spaces; n-grams never span two rows. One pass over the training rows with 64-bit hashes:
the chance of a false match is about 1e-12 an n-gram.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import regex
from numpy.typing import NDArray

from kdbench.harness.data.examples import Example
from kdbench.harness.data.scripts import UNSPACED

N = 13
"""Words of an n-gram, as in GPT-3's decontamination (arXiv:2005.14165, appendix C): fixed phrases of
instructions are shorter."""
SHARE = 0.5

Words = NDArray[np.uint64]

_WORD = regex.compile(
    rf"[[\p{{L}}\p{{N}}]&&[{UNSPACED}]]\p{{M}}*|[\w--[{UNSPACED}]]+", regex.VERSION1
)
_FACTOR = np.uint64(6364136223846793005)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def overlaps(splits: Mapping[str, Sequence[Example]]) -> dict[str, int]:
    """Counts known blemishes of a data set.

    Args:
        splits: name -> rows, for example train, dev, test.

    Returns:
        ``"train&dev"``: distinct (instruction, input) that both have, for each pair of splits in
        the given order; ``"train duplicates"``: rows equal to an earlier row, answer included, for
        each split.
    """
    questions = {name: {e.asked for e in rows} for name, rows in splits.items()}
    counts = {f"{a}&{b}": len(questions[a] & questions[b]) for a, b in combinations(splits, 2)}
    for name, rows in splits.items():
        repeats = Counter((*e.asked, e.references) for e in rows)
        counts[f"{name} duplicates"] = sum(repeats.values()) - len(repeats)
    return counts


def shared_ngrams(
    train: Sequence[Example], tests: Mapping[str, Sequence[Example]], *, n: int = N
) -> dict[str, int]:
    """Number of each test's prompts (instruction and input) found in the training rows.

    Args:
        train: training rows; all their references are looked at.
        tests: name -> rows.
        n: words of an n-gram.
    """
    vocabulary: dict[str, int] = {}
    learned = [_words("\n".join((*row.asked, *row.references))) for row in train]
    pool = np.sort(_ngrams(learned, n, vocabulary)[0])
    asked = {tuple(words) for row in train if len(words := _words(_asked(row))) < n}
    found = {}
    for name, rows in tests.items():
        texts = [_words(_asked(row)) for row in rows]
        short = sum(tuple(words) in asked for words in texts if len(words) < n)
        found[name] = short + _found(texts, pool, n, vocabulary)
    return found


def _found(texts: Sequence[list[str]], pool: Words, n: int, vocabulary: dict[str, int]) -> int:
    grams, row_of = _ngrams(texts, n, vocabulary)
    if not len(grams) or not len(pool):
        return 0
    place = np.minimum(np.searchsorted(pool, grams), len(pool) - 1)
    hits = np.bincount(row_of, weights=pool[place] == grams, minlength=len(texts))
    total = np.bincount(row_of, minlength=len(texts))
    return int(((total > 0) & (hits >= SHARE * total)).sum())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _asked(example: Example) -> str:
    return "\n".join(example.question)


def _ngrams(
    texts: Sequence[list[str]], n: int, vocabulary: dict[str, int]
) -> tuple[Words, NDArray[np.intp]]:
    """Hashes of all n-grams, and the row each is from."""
    ids = [vocabulary.setdefault(word, len(vocabulary) + 1) for text in texts for word in text]
    row_of = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    if len(ids) < n:
        return np.zeros(0, np.uint64), np.zeros(0, np.intp)
    words = np.array(ids, dtype=np.uint64) * _MIX
    words ^= words >> _SHIFT
    count = len(words) - n + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(n):
        hashes = hashes * _FACTOR + words[offset : offset + count]
    whole = row_of[:count] == row_of[n - 1 :]
    return hashes[whole], row_of[:count][whole]
