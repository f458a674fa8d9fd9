"""Rows that occur in more than one split, or twice in one: reported, never filtered."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from kdbench.harness.data.examples import Example


def overlaps(splits: Mapping[str, Sequence[Example]]) -> dict[str, int]:
    """Counts known blemishes of a data set.

    Args:
        splits: name -> rows, for example train, dev, test.

    Returns:
        ``"train&dev"``: distinct (instruction, input) that both have, for each pair of splits in
        the given order; ``"train duplicates"``: rows equal to an earlier row, answer included, for
        each split.
    """
    questions = {name: {e.question for e in rows} for name, rows in splits.items()}
    counts = {f"{a}&{b}": len(questions[a] & questions[b]) for a, b in combinations(splits, 2)}
    for name, rows in splits.items():
        repeats = Counter((*e.question, e.references) for e in rows)
        counts[f"{name} duplicates"] = sum(repeats.values()) - len(repeats)
    return counts
