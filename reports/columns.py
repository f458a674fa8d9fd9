"""Which evaluations stand in one column, and the value of a row there."""

from collections.abc import Sequence

from kdbench.harness.records import Estimate, EvaluationScores, Missing
from kdbench.reports import stats
from kdbench.reports.group import GroupedRow
from kdbench.reports.load import Run, evaluation_identity
from kdbench.reports.metrics import clamp, rank
from kdbench.reports.model import Cell, Column
from kdbench.reports.summarise import DECIMALS

Identities = dict[str, str]
"""Evaluation key -> what its column shares; equal keys stand for equal evaluations."""
Entry = tuple[Run, str, EvaluationScores]
"""A run, the key of one of its evaluations, and what the summary says of it."""
TASK_ORDER = ("dolly", "selfinst", "vicuna", "sni", "unni")
TaskKey = tuple[str, str, str, str]
Found = dict[TaskKey, list[Entry]]
"""Task, edition, protocol, identity -> the runs that have it, with the evaluation's key."""


def evaluations(grouped: GroupedRow, identities: Identities) -> Found:
    """Evaluations of a row; of two that differ in batch size only, the first key counts."""
    found: Found = {}
    for run in grouped.runs:
        seen: set[TaskKey] = set()
        for key in sorted(run.summary.scores):
            scores = run.summary.scores[key]
            if key not in identities:
                identities[key] = evaluation_identity(run, key)
            shared = (scores.task, scores.edition, scores.protocol, identities[key])
            if shared not in seen:
                seen.add(shared)
                found.setdefault(shared, []).append((run, key, scores))
    return found


def task_key(column: Column) -> TaskKey:
    """The evaluation a column shows a metric of."""
    return (column.task, column.edition, column.protocol, column.identity)


def columns_of(
    rows: Sequence[Found], metrics: Sequence[str] | None, tasks: Sequence[str] | None
) -> list[Column]:
    """Columns in order of task, edition, protocol and metric.

    Args:
        rows: what each row has.
        metrics: only these; None: all.
        tasks: only these, in this order; None: all, the usual five first.
    """
    keys = {
        (*shared, name)
        for row in rows
        for shared, entries in row.items()
        for _, _, scores in entries
        for name in scores.metrics
        if (tasks is None or shared[0] in tasks) and (metrics is None or name in metrics)
    }
    first = list(TASK_ORDER if tasks is None else tasks)
    others = sorted({key[0] for key in keys} - set(first))
    order = {task: index for index, task in enumerate([*first, *others])}
    protocols = {key[2] for key in keys}
    made = []
    for key in sorted(keys, key=lambda k: (order[k[0]], k[1], k[2], k[3], rank(k[4]))):
        task, edition, protocol, identity, metric = key
        heading = f"{task}[{edition}]"
        if len(protocols) > 1:
            heading += f" {protocol}"
        if len({k[3] for k in keys if k[:3] == key[:3]}) > 1:
            heading += f" @{identity}"
        made.append(
            Column(
                id="/".join([task, edition, protocol, identity, metric]),
                task=task,
                edition=edition,
                protocol=protocol,
                metric=metric,
                identity=identity,
                heading=heading,
            )
        )
    return made


def cell_of(grouped: GroupedRow, entries: Sequence[Entry], column: Column) -> Cell | Missing:
    """Mean over the training seeds that have a value; a reason where none has."""
    values: list[Estimate] = []
    reasons: list[str] = []
    for _, _, scores in entries:
        value = scores.metrics.get(column.metric, Missing(missing="metric not computed"))
        if isinstance(value, Missing):
            reasons.append(value.missing)
        else:
            values.append(value)
    absent = len(grouped.runs) - len(entries)
    if absent:
        reasons.append("not evaluated")
    if not values:
        return Missing(missing="; ".join(dict.fromkeys(reasons)))
    interval = stats.seed_interval(
        [v.mean for v in values], [v.low for v in values], [v.high for v in values]
    )
    note = ""
    if reasons:
        why = "; ".join(dict.fromkeys(reasons))
        note = f"{len(values)} of {len(grouped.runs)} training seeds ({why})"
    return Cell(
        mean=round(interval.mean, DECIMALS),
        low=round(clamp(column.metric, interval.low), DECIMALS),
        high=round(clamp(column.metric, interval.high), DECIMALS),
        n_prompts=min(v.n_prompts for v in values),
        n_runs=len(values),
        decoding_seeds=values[0].seeds,
        note=note,
    )
