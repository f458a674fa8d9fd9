"""From the per-prompt scores of one evaluation to the numbers in summary.json."""

from collections.abc import Sequence

import numpy as np

from kdbench.harness import stats
from kdbench.harness.files.records import Estimate, Missing, ScoreRow
from kdbench.harness.metrics import clamp, others


def estimate(rows: Sequence[ScoreRow], metric: str) -> Estimate | Missing:
    """Mean and 95% bootstrap interval of one metric over prompts.

    Decoding seeds are averaged per prompt first. The order of ``rows`` does not matter.
    """
    return estimates(rows, [metric])[metric]


def estimates(rows: Sequence[ScoreRow], metrics: Sequence[str]) -> dict[str, Estimate | Missing]:
    """``estimate`` for several metrics; all are resampled with the same draws."""
    added = others()
    if not rows:
        return {metric: Missing(missing="no prompt was scored") for metric in metrics}
    ordered = sorted(rows, key=lambda row: (row.doc_id, row.prompt_hash))
    found: dict[str, Estimate | Missing] = {}
    tables: dict[str, stats.Array] = {}
    for metric in metrics:
        problem = _problem(ordered, metric)
        if problem:
            found[metric] = Missing(missing=problem)
        else:
            tables[metric] = np.array([row.metrics[metric] for row in ordered], dtype=float)
    if tables:
        values_PK = np.stack([table.mean(axis=1) for table in tables.values()], axis=1)
        bounds = zip(*stats.bootstrap_columns(values_PK), strict=True)
        for (metric, table), (mean, low, high) in zip(tables.items(), bounds, strict=True):
            per_seed = [float(value) for value in table.mean(axis=0)]
            aggregate = added[metric].aggregate if metric in added else None
            if aggregate is not None:
                mean, low, high = stats.bootstrap_aggregate(table.mean(axis=1), aggregate)
                per_seed = [aggregate(column.tolist()) for column in table.T]
            found[metric] = Estimate(
                mean=float(mean),
                low=round(clamp(metric, float(low)), stats.DECIMALS),
                high=round(clamp(metric, float(high)), stats.DECIMALS),
                n_prompts=len(ordered),
                seeds=list(ordered[0].seeds),
                per_seed=per_seed,
            )
    return {metric: found[metric] for metric in metrics}


def _problem(rows: Sequence[ScoreRow], metric: str) -> str:
    """Why a metric has no value, or nothing."""
    absent = sum(metric not in row.metrics for row in rows)
    if absent:
        return f"not scored for {absent} of {len(rows)} prompts"
    seeds = rows[0].seeds
    if not seeds:
        return "no decoding seed"
    if any(row.seeds != seeds or len(row.metrics[metric]) != len(seeds) for row in rows):
        return "prompts have different decoding seeds; finish the evaluation"
    bad = sum(not np.isfinite(row.metrics[metric]).all() for row in rows)
    return f"not a number for {bad} of {len(rows)} prompts" if bad else ""


def evaluation_scores(rows: Sequence[ScoreRow]) -> dict[str, Estimate | Missing]:
    """Every metric that any row of one evaluation has; what cannot be averaged says why."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    # without rows: what would be there, each with the reason
    return estimates(rows, names or ["rouge_l", "exact_match"])
