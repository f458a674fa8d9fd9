"""Answers as small probabilistic grammars, kept as acyclic graphs of words.

The notation is a line of words with weighted choices in brackets, nested as deep as wanted:
``a clay potter [3 from | 1 of] Ostrel [2 | 1 , in the north] .`` A choice may be empty. The graph
has one node for each place in the answer and one arc for each word that may follow; the sum over
its paths is what makes the truth exact (``truth.py``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import prod

import numpy as np

END = ""  # the word after the last one; the tokenizer's end token stands for it

Arc = tuple[float, str, int]  # probability, word, node reached
Fan = list[Arc]  # what may follow a place


@dataclass(frozen=True)
class Graph:
    """Arcs from ``source`` to ``target`` emitting ``word`` with ``weight``, for ``nodes`` nodes.

    Node 0 is the beginning. The weights that leave a node sum to one, except for the last node,
    which nothing leaves: it is reached by the ``END`` word.
    """

    nodes: int
    source: np.ndarray
    target: np.ndarray
    word: tuple[str, ...]
    weight: np.ndarray

    def fans(self) -> list[Fan]:
        """For each node its arcs."""
        fans: list[Fan] = [[] for _ in range(self.nodes)]
        arcs = (self.source.tolist(), self.target.tolist(), self.word, self.weight.tolist())
        for source, target, word, weight in zip(*arcs, strict=True):
            fans[source].append((weight, word, target))
        return fans


def compile_spec(spec: str) -> Graph:
    """The graph of an answer in the notation of this module.

    Raises:
        ValueError: unbalanced brackets or a choice without a weight: a bug in a kind.
    """
    words = spec.replace("[", " [ ").replace("]", " ] ").replace("|", " | ").split()
    fans: list[Fan] = []  # holds them, too, so that their ids stay theirs
    places: dict[int, int] = {}

    def place(fan: Fan) -> int:
        """The node whose continuation is ``fan``: one node a fan, so that branches join again."""
        if id(fan) not in places:
            places[id(fan)] = len(fans)
            fans.append(fan)
        return places[id(fan)]

    tree, rest = _parse(words, 0)
    if rest != len(words):
        raise ValueError(f"unbalanced brackets in answer spec {spec!r}")
    last: Fan = []
    start = tree([(1.0, END, place(last))], place)
    first = place(start)
    order = [first] + [i for i in range(len(fans)) if i != first]
    index = {node: i for i, node in enumerate(order)}
    arcs = [(index[s], index[t], w, p) for s, fan in enumerate(fans) for p, w, t in fan]
    return Graph(
        len(fans),
        np.array([a[0] for a in arcs]),
        np.array([a[1] for a in arcs]),
        tuple(a[2] for a in arcs),
        np.array([a[3] for a in arcs]),
    )


Build = Callable[
    [Fan, Callable[[Fan], int]], Fan
]  # (what follows, place) -> fan with this before it


def _parse(words: list[str], i: int) -> tuple[Build, int]:
    """A sequence up to the next ``|`` or ``]``, and where it stopped."""
    parts: list[Build] = []
    while i < len(words) and words[i] not in ("|", "]"):
        if words[i] == "[":
            part, i = _parse_choice(words, i + 1)
        else:
            part, i = _word(words[i]), i + 1
        parts.append(part)

    def sequence(after: Fan, place: Callable[[Fan], int]) -> Fan:
        for part in reversed(parts):
            after = part(after, place)
        return after

    return sequence, i


def _parse_choice(words: list[str], i: int) -> tuple[Build, int]:
    """``weight sequence | weight sequence ... ]``; returns the place after the bracket."""
    branches: list[tuple[float, Build]] = []
    while True:
        weight = float(words[i])
        part, i = _parse(words, i + 1)
        branches.append((weight, part))
        if i >= len(words):
            raise ValueError("unbalanced brackets in answer spec")
        i += 1
        if words[i - 1] == "]":
            break
    total = sum(weight for weight, _ in branches)

    def choice(after: Fan, place: Callable[[Fan], int]) -> Fan:
        return [
            (weight / total * p, word, node)
            for weight, part in branches
            for p, word, node in part(after, place)
        ]

    return choice, i


def _word(word: str) -> Build:
    return lambda after, place: [(1.0, word, place(after))]


def count_paths(graph: Graph) -> int:
    """How many paths lead from the beginning to the end (an upper bound on different answers)."""
    fans = graph.fans()

    @cache
    def count(node: int) -> int:
        return sum(count(t) for _, _, t in fans[node]) if fans[node] else 1

    return count(0)


def enumerate_answers(graph: Graph) -> dict[tuple[str, ...], float]:
    """Every answer as words (without the end) with its probability, the likeliest first."""
    fans = graph.fans()

    def walk(node: int, said: tuple[str, ...], p: float) -> Iterator[tuple[tuple[str, ...], float]]:
        for q, word, target in fans[node]:
            if word == END:
                yield said, p * q
            else:
                yield from walk(target, (*said, word), p * q)

    answers: dict[tuple[str, ...], float] = {}
    for said, p in walk(0, (), 1.0):
        answers[said] = answers.get(said, 0.0) + p
    return dict(sorted(answers.items(), key=lambda item: (-item[1], item[0])))


def plackett_luce(items: list[str], weights: list[float], k: int, glue: str) -> str:
    """A choice over ordered picks of ``k`` items, each drawn by weight without replacement.

    Plackett 1975, "The Analysis of Permutations".
    """

    def share(order: tuple[int, ...], place: int) -> float:
        left = (w for i, w in enumerate(weights) if i not in order[:place])
        return weights[order[place]] / sum(left)

    branches = [
        f"{prod(share(order, n) for n in range(k))!r} {f' {glue} '.join(items[i] for i in order)}"
        for order in permutations(range(len(items)), k)
    ]
    return f"[{' | '.join(branches)}]"
