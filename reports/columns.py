"""Which evaluations stand in one column, and the value of a row there."""

from collections.abc import Sequence
from typing import NamedTuple

from kdbench.harness import stats
from kdbench.harness.files.records import Estimate, Missing
from kdbench.harness.metrics import Kind, clamp, info, rank
from kdbench.reports.group import GroupedRow
from kdbench.reports.load import Identity, Run, evaluation_identity
from kdbench.reports.measured import Point, Value, Values, judged_values, probe_values
from kdbench.reports.model import Cell, Column

Identities = dict[str, Identity]
"""Evaluation key and scorer -> what its column shares; equal ones stand for equal evaluations."""


class Entry(NamedTuple):
    """One evaluation of one run: its key, and its values by metric."""

    run: Run
    key: str
    metrics: Values


TASK_ORDER = ("dolly", "selfinst", "vicuna", "sni", "unni")
TaskKey = tuple[str, str, str, str]
Found = dict[TaskKey, list[Entry]]
"""Task, edition, protocol, identity -> the runs that have it."""


def evaluations(grouped: GroupedRow, identities: Identities) -> Found:
    """Evaluations of a row; of two that differ in batch size only, the first key counts.

    Probes of an evaluation stand beside its scores; each judge of it is an evaluation of its own.
    """
    found: Found = {}
    for run in grouped.runs:
        seen: set[TaskKey] = set()
        for key in sorted(run.summary.scores):
            scores = run.summary.scores[key]
            known = f"{key} {scores.scorer}"
            if known not in identities:
                identities[known] = evaluation_identity(run, key)
            identity = identities[known]
            values: dict[str, Value] = dict(scores.metrics)
            if not identity.sampled:
                values = {name: _unsampled(value) for name, value in values.items()}
            values |= probe_values(run.summary.probes.get(key, {}))
            measured = [(identity.digest, values)]
            for judge, judged in judged_values(run.summary, key):
                measured.append((f"{identity.digest} {judge}", judged))
            for name, metrics in measured:
                shared = (scores.task, scores.edition, scores.protocol, name)
                if shared not in seen:
                    seen.add(shared)
                    found.setdefault(shared, []).append(Entry(run, key, metrics))
    return found


def _unsampled(value: Value) -> Value:
    """Nothing was drawn: the seed that every estimate lists is none of decoding."""
    return value.model_copy(update={"seeds": []}) if isinstance(value, Estimate) else value


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
        for entry in entries
        for name in entry.metrics
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
        digest, _, judge = identity.partition(" ")
        if len({k[3].partition(" ")[0] for k in keys if k[:3] == key[:3]}) > 1:
            heading += f" @{digest}"
        if judge:
            heading += f" by {judge}"
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
    values: list[Estimate | Point] = []
    reasons: list[str] = []
    absent, not_measured = _ABSENT[info(column.metric).kind]
    for entry in entries:
        value = entry.metrics.get(column.metric, Missing(missing=not_measured))
        if isinstance(value, Missing):
            reasons.append(value.missing)
        else:
            values.append(value)
    if len(entries) < len(grouped.runs):
        reasons.append(absent)
    if not values:
        return Missing(missing="; ".join(dict.fromkeys(reasons)))
    note = ""
    if reasons:
        why = "; ".join(dict.fromkeys(reasons))
        note = f"{len(values)} of {len(grouped.runs)} training seeds ({why})"
    first = values[0]
    return Cell(
        **_bounds(values, column.metric),
        n_prompts=min(v.n_prompts for v in values),
        n_runs=len(values),
        decoding_seeds=first.seeds if isinstance(first, Estimate) else [],
        note=note,
    )


_ABSENT: dict[Kind, tuple[str, str]] = {
    "score": ("not evaluated", "metric not computed"),
    "judge": ("not judged", "not measured by this judge"),
    "probe": ("not evaluated", "probe not run"),
}
"""Why there is no value: no such evaluation, or an evaluation without this metric."""


def _bounds(values: Sequence[Estimate | Point], metric: str) -> dict[str, float | None]:
    """Mean and interval of a cell; values without intervals get one from three seeds on."""
    means = [v.mean for v in values]
    lows = [v.low if isinstance(v, Estimate) else v.mean for v in values]
    highs = [v.high if isinstance(v, Estimate) else v.mean for v in values]
    interval = stats.seed_interval(means, lows, highs)
    bare = any(isinstance(v, Point) for v in values) and len(values) < stats.MIN_TRAINING_SEEDS
    return {
        "mean": round(interval.mean, stats.DECIMALS),
        "low": None if bare else round(clamp(metric, interval.low), stats.DECIMALS),
        "high": None if bare else round(clamp(metric, interval.high), stats.DECIMALS),
    }
