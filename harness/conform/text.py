"""ROUGE-L and exact match against the authors' numbers."""

from collections.abc import Iterator
from typing import Any

from kdbench.harness.conform.value import Value
from kdbench.tasks.scoring import exact_match, rouge_l


def text_metrics(data: dict[str, Any]) -> Iterator[Value]:
    """Every row (fractions) and the aggregates (percent)."""
    totals = {"rougeL": 0.0, "exact_match": 0.0}
    for number, row in enumerate(data["rows"]):
        rouge = rouge_l(row["prediction"], row["references"])
        exact = exact_match(row["prediction"], row["references"])
        totals["rougeL"] += rouge
        totals["exact_match"] += exact
        yield Value(f"rougeL[{number}]", [row["rougeL"]], [rouge / 100])
        yield Value(f"exact_match[{number}]", [row["exact_match"]], [exact / 100])
    for name, expected in data["expected_aggregate"].items():
        # the file prints four decimals, so the half unit of rounding is not ours
        ours = round(totals[name] / len(data["rows"]), 4)
        yield Value(f"aggregate.{name}", [expected], [ours])
