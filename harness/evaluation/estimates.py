"""From per-prompt scores to means with intervals, or to the reason why there is none."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from kdbench.harness import metrics, stats
from kdbench.harness.files.records import Estimate, Missing, ScoreRow


def estimates(rows: Sequence[ScoreRow], names: Sequence[str]) -> dict[str, Estimate | Missing]:
    """Mean and 95% bootstrap interval of metrics over prompts, all resampled with the same draws.

    Decoding seeds are averaged per prompt first. The order of ``rows`` does not matter. A metric that
    cannot measure some prompts (`kdbench.harness.metrics.MOST_UNMEASURED` at most) is that of the others.
    """
    added = metrics.others()
    if not rows:
        return {metric: Missing(missing="no prompt was scored") for metric in names}
    ordered = sorted(rows, key=lambda row: (row.doc_id, row.prompt_hash))
    found: dict[str, Estimate | Missing] = {}
    together: dict[tuple[int, ...], dict[str, stats.Array]] = defaultdict(dict)
    for metric in names:
        measured = [place for place, row in enumerate(ordered) if metric not in row.missing]
        of = [ordered[place] for place in measured]
        if problem := _problem(ordered, of, metric):
            found[metric] = Missing(missing=problem)
        else:
            table = np.array([row.metrics[metric] for row in of], dtype=float)
            together[tuple(measured)][metric] = table
    for tables in together.values():  # the same prompts are drawn for all of them
        values_PK = np.stack([table.mean(axis=1) for table in tables.values()], axis=1)
        bounds = zip(*stats.bootstrap_columns(values_PK), strict=True)
        for (metric, table), interval in zip(tables.items(), bounds, strict=True):
            aggregate = added[metric].aggregate if metric in added else None
            found[metric] = _estimate(metric, table, interval, ordered[0].seeds, aggregate)
    return {metric: found[metric] for metric in names}


def _estimate(
    metric: str,
    table_PS: stats.Array,
    interval: Sequence[float],
    seeds: Sequence[int],
    aggregate: Callable[[Sequence[float]], float] | None,
) -> Estimate | Missing:
    mean, low, high = map(float, interval)
    per_seed = [float(value) for value in table_PS.mean(axis=0)]
    if aggregate is not None:
        mean, low, high = stats.bootstrap_aggregate(table_PS.mean(axis=1), aggregate)
        per_seed = [float(aggregate(column.tolist())) for column in table_PS.T]
    if not np.isfinite([mean, low, high, *per_seed]).all():
        return Missing(
            missing="its value over all prompts, or of some draws of them, is not finite"
        )
    return Estimate(
        mean=mean,
        low=round(metrics.clamp(metric, low), stats.DECIMALS),
        high=round(metrics.clamp(metric, high), stats.DECIMALS),
        n_prompts=len(table_PS),
        seeds=list(seeds),
        per_seed=per_seed,
    )


def _problem(rows: Sequence[ScoreRow], measured: Sequence[ScoreRow], metric: str) -> str:
    """Why a metric has no value, or nothing."""
    unmeasured = len(rows) - len(measured)
    if unmeasured > metrics.MOST_UNMEASURED * len(rows):
        why = Counter(row.missing[metric] for row in rows if metric in row.missing)
        return f"{unmeasured} of {len(rows)} prompts: {why.most_common(1)[0][0]}"
    absent = sum(metric not in row.metrics for row in measured)
    if absent:
        return f"not scored for {absent} of {len(rows)} prompts"
    seeds = rows[0].seeds
    if not seeds:
        return "no decoding seed"
    if any(row.seeds != seeds or len(row.metrics[metric]) != len(seeds) for row in measured):
        return "prompts have different decoding seeds; finish the evaluation"
    return ""


def names_of(rows: Iterable[ScoreRow]) -> list[str]:
    """Every metric that any row has, or says why it has not."""
    return list(dict.fromkeys(name for row in rows for name in (*row.metrics, *row.missing)))


def evaluation_scores(rows: Sequence[ScoreRow]) -> dict[str, Estimate | Missing]:
    """Every metric that any row of one evaluation has; what cannot be averaged says why."""
    names = names_of(rows)
    # without rows: what would be there, each with the reason
    return estimates(rows, names or ["rouge_l", "exact_match"])
