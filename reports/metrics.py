"""What a report knows about a metric: how it is called, its bounds, and which way is better."""

from typing import NamedTuple


class MetricInfo(NamedTuple):
    """How a metric is shown. ``better``: 1 higher, -1 lower, 0 neither (then nothing is bold)."""

    label: str
    better: int
    low: float = float("-inf")
    high: float = float("inf")
    headline: bool = False
    digits: int = 1


METRICS: dict[str, MetricInfo] = {
    "rouge_l": MetricInfo("ROUGE-L", 1, 0.0, 100.0, headline=True),
    "exact_match": MetricInfo("EM", 1, 0.0, 100.0, headline=True),
    "acc": MetricInfo("acc", 1, 0.0, 1.0, headline=True, digits=3),
    "acc_norm": MetricInfo("acc_norm", 1, 0.0, 1.0, headline=True, digits=3),
    "brier": MetricInfo("Brier", -1, 0.0, 2.0, digits=3),
    "ece": MetricInfo("ECE", -1, 0.0, 1.0, digits=3),
    "response_tokens": MetricInfo("length", 0, 0.0),
    "finished": MetricInfo("finished", 0, 0.0, 100.0),
}
"""In the order of the columns of a table. Others come after these, by name."""


def info(metric: str) -> MetricInfo:
    """What is known about ``metric``; an unknown one has no better direction."""
    return METRICS.get(metric, MetricInfo(metric, 0))


def rank(metric: str) -> tuple[int, str]:
    """Sort key of a metric's column."""
    names = list(METRICS)
    return (names.index(metric) if metric in METRICS else len(names), metric)


def clamp(metric: str, value: float) -> float:
    """``value`` inside the metric's bounds (a t interval may leave them)."""
    known = info(metric)
    return min(max(value, known.low), known.high)
