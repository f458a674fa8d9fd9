"""What the training of a method cost, and which costs no better method undercuts."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kdbench.reports.rows import GroupedRow

COSTS = {
    "response": "tokens trained on",
    "student": "tokens through the student",
    "teacher": "tokens through the teacher",
    "sampled": "tokens sampled",
    "teacher_answers": "tokens of answers that the teacher wrote",
}
"""Kinds of tokens of a training, as runs record them."""
SECONDS = "seconds"
ALIKE = 1.01
"""Costs of a smaller ratio count as equal: by design methods differ in some tokens that nobody pays for."""


class Spent(NamedTuple):
    """What one training of a method cost."""

    cost: Mapping[str, float]
    """Tokens by kind, the mean over its runs; seconds, the median, since other work on a machine slows some
    of them. Nothing where no run recorded any."""
    ratio: float = 1.0
    """Seconds of its slowest run over those of its quickest."""


def training_cost(row: GroupedRow) -> Spent:
    """What the runs of a row recorded of their training."""
    spent = [run.summary.cost["train"] for run in row.runs if "train" in run.summary.cost]
    if not spent:
        return Spent({})
    kinds = [kind for kind in COSTS if any(kind in each.tokens for each in spent)]
    tokens = {kind: sum(each.tokens.get(kind, 0) for each in spent) / len(spent) for kind in kinds}
    seconds = [each.wall_s for each in spent]
    ratio = max(seconds) / min(seconds) if min(seconds) > 0 else 1.0
    return Spent({**tokens, SECONDS: round(statistics.median(seconds), 1)}, round(ratio, 2))


def kinds_of(costs: Sequence[Mapping[str, float]]) -> list[str]:
    """Costs that any of some methods have, tokens first."""
    return [kind for kind in (*COSTS, SECONDS) if any(kind in cost for cost in costs)]


def completed(costs: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Costs of methods beside each other: runs record the kinds of tokens that they used, so where
    others used some, theirs are 0. Where a run recorded no tokens at all, they stay unknown.
    """
    zeros = {kind: 0.0 for kind in kinds_of(costs) if kind in COSTS}
    return [
        {**zeros, **cost} if any(kind in cost for kind in COSTS) else dict(cost) for cost in costs
    ]


def fronts(
    qualities: Sequence[float], costs: Sequence[Mapping[str, float]], ratio: float
) -> list[list[str]]:
    """The costs, of each method, for which no other is as good and cheaper, or better and no dearer.

    Args:
        qualities: of the methods, higher is better.
        costs: of the methods.
        ratio: by how much seconds of one method differ; smaller differences say nothing.
    """

    def beaten(mine: int, kind: str, alike: float) -> bool:
        quality, cost = qualities[mine], costs[mine][kind]
        rivals = [(q, c[kind]) for q, c in zip(qualities, costs, strict=True) if kind in c]
        return any(
            (q >= quality and c * alike < cost) or (q > quality and c <= cost * alike)
            for q, c in rivals
        )

    kinds = {kind: ALIKE if kind in COSTS else max(ALIKE, ratio) for kind in kinds_of(costs)}
    return [
        [kind for kind, alike in kinds.items() if kind in cost and not beaten(i, kind, alike)]
        for i, cost in enumerate(costs)
    ]
