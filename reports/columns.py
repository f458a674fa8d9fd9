"""The values of evaluations, which of them stand in one column, and the cell of a row there.

An evaluation's values are its scores and what probes and judges found. Intervals come from the
summaries as they are: nothing is resampled here, and what was measured without an interval is shown
without one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from kdbench.harness import stats
from kdbench.harness.errors import unknown
from kdbench.harness.files.records import Estimate, Missing, Record, Summary
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.metrics import Kind, clamp, info, named, rank
from kdbench.reports.rows import GroupedRow
from kdbench.reports.runs import Run


class Point(NamedTuple):
    """A value that was measured without an interval."""

    mean: float
    n_prompts: int
    low: None = None
    high: None = None


Value = Estimate | Point | Missing
Values = Mapping[str, Value]
Report = Mapping[str, Any]


class Entry(NamedTuple):
    """One evaluation of one run: its key, and its values by metric."""

    run: Run
    key: str
    metrics: Values

    @property
    def evaluation(self) -> Evaluation:
        """What is stored of it."""
        return self.run.folder.evaluation(self.key)


class ColumnKey(NamedTuple):
    """What evaluations share that stand in one column, whatever their metric."""

    task: str
    edition: str
    protocol: str
    digest: str
    """``EvaluationScores.column``."""
    judge: str = ""
    """Id of the judge whose values these are."""


class Column(Record):
    """One metric of one task edition under one protocol; never a mixture."""

    id: str
    task: str
    edition: str
    protocol: str
    metric: str
    identity: str
    """Digest of what the evaluations of this column share, and the judge behind a blank."""
    heading: str
    """Task, edition and, where the table needs them to differ, protocol and identity."""

    @property
    def key(self) -> ColumnKey:
        """The evaluations whose metric this is."""
        digest, _, judge = self.identity.partition(" ")
        return ColumnKey(self.task, self.edition, self.protocol, digest, judge)


class Cell(Record):
    """A mean with its 95% interval; without one where none was measured."""

    mean: float
    low: float | None
    high: float | None
    n_prompts: int
    n_runs: int
    decoding_seeds: list[int] = []
    bold: bool = False
    note: str = ""


Found = dict[ColumnKey, list[Entry]]
"""What evaluations share -> the runs of a row that have it."""

TASK_ORDER = ("dolly", "selfinst", "vicuna", "sni", "unni")
JUDGE_PREFIX = "judge_"


# -- columns --------------------------------------------------------------------------------------


def evaluations(grouped: GroupedRow) -> Found:
    """Evaluations of a row; of two that differ in batch size only, the first key counts.

    Probes of an evaluation stand beside its scores; each judge of it is an evaluation of its own.
    """
    found: Found = {}
    for run in grouped.runs:
        seen: set[ColumnKey] = set()
        for key, scores in sorted(run.summary.scores.items()):
            shared = ColumnKey(scores.task, scores.edition, scores.protocol, scores.column)
            values: dict[str, Value] = dict(scores.metrics)
            if not scores.sampled:
                values = {name: _undrawn(value) for name, value in values.items()}
            values |= probe_values(run.summary.probes.get(key, {}))
            judged = judged_values(run.summary, key)
            measured = {shared: values} | {shared._replace(judge=j): v for j, v in judged}
            for place, metrics in measured.items():
                if place not in seen:
                    found.setdefault(place, []).append(Entry(run, key, metrics))
            seen |= measured.keys()
    return found


def columns_of(
    rows: Sequence[Found], metrics: Sequence[str] | None, tasks: Sequence[str] | None
) -> list[Column]:
    """Columns in order of task, edition, protocol and metric.

    Args:
        rows: what each row has.
        metrics: only these; None: all.
        tasks: only these, in this order; None: all, the usual five first.
    """
    shown = {
        (key, name)
        for row in rows
        for key, entries in row.items()
        for entry in entries
        for name in entry.metrics
        if (tasks is None or key.task in tasks) and (metrics is None or name in metrics)
    }
    keys = {key for key, _ in shown}
    first = list(TASK_ORDER if tasks is None else tasks)
    order = [*first, *sorted({key.task for key in keys} - set(first))]
    ranked = sorted(shown, key=lambda k: (order.index(k[0].task), k[0][1:], rank(k[1])))
    headings = {key: _heading(key, keys) for key in keys}
    return [
        Column(
            id="/".join([*key[:3], identity, metric]),
            task=key.task,
            edition=key.edition,
            protocol=key.protocol,
            metric=metric,
            identity=identity,
            heading=headings[key],
        )
        for key, metric in ranked
        for identity in [f"{key.digest} {key.judge}".strip()]
    ]


def named_metrics(
    rows: Sequence[Found], metrics: Sequence[str] | None, tasks: Sequence[str] | None
) -> list[str] | None:
    """Metrics as typed by their names; of the tasks only that they are there is looked at.

    Raises:
        InputError: a metric or a task that no row has.
    """
    places = {key for row in rows for key in row}
    names = sorted({key.task for key in places})
    for task in tasks or ():
        if task not in names:
            raise unknown("task", task, names, " in these runs")
    entries = [entry for row in rows for each in row.values() for entry in each]
    there = sorted({name for entry in entries for name in entry.metrics}, key=rank)
    return named(metrics, there)


def directed(column: Column) -> bool:
    """Whether rows are compared in it: a score with a better direction."""
    known = info(column.metric)
    return known.kind == "score" and known.better != 0


def _heading(key: ColumnKey, keys: set[ColumnKey]) -> str:
    """Task and edition; protocol and digest where they tell columns apart; the judge."""
    heading = f"{key.task}[{key.edition}]"
    if len({other.protocol for other in keys}) > 1:
        heading += f" {key.protocol}"
    if len({other.digest for other in keys if other[:3] == key[:3]}) > 1:
        heading += f" @{key.digest}"
    return f"{heading} by {key.judge}" if key.judge else heading


def too_long(
    rows: Sequence[GroupedRow], found: Sequence[Found], columns: Sequence[Column]
) -> list[str]:
    """A sentence for each task and number of prompts that were left out or cut, with whose they are."""
    told: dict[tuple[str, int, int], dict[str, None]] = {}
    for column in columns:
        for grouped, mine in zip(rows, found, strict=True):
            for entry in () if column.key.judge else mine.get(column.key, ()):
                scores = entry.run.summary.scores[entry.key]
                counts = scores.prompts_dropped, scores.prompts_cut
                if any(counts):
                    told.setdefault((column.heading, *counts), {})[grouped.row.label] = None
    return [
        f"{heading}: prompts that are too long: {dropped} left out, {cut} cut ({', '.join(labels)})"
        for (heading, dropped, cut), labels in told.items()
    ]


def cell_of(
    grouped: GroupedRow,
    entries: Sequence[Entry],
    metric: str,
    variance: float = 0.0,
    df: float = 0.0,
) -> Cell | Missing:
    """Mean over the training seeds that have a value; a reason where none has.

    Args:
        grouped: the row.
        entries: its evaluations in the column.
        metric: the column's.
        variance: of one training seed's mean (see `stats.seed_interval`).
        df: degrees of freedom behind it; 0: not known.
    """
    absent, not_measured = _ABSENT[info(metric).kind]
    found = [entry.metrics.get(metric, Missing(missing=not_measured)) for entry in entries]
    values = [value for value in found if not isinstance(value, Missing)]
    reasons = [value.missing for value in found if isinstance(value, Missing)]
    if len(entries) < len(grouped.runs):
        reasons.append(absent)
    why = "; ".join(dict.fromkeys(reasons))
    if not values:
        return Missing(missing=why)
    lows = [v.mean if v.low is None else v.low for v in values]
    highs = [v.mean if v.high is None else v.high for v in values]
    interval = stats.seed_interval([v.mean for v in values], lows, highs, variance, df)
    # values without intervals get one where seeds were measured
    bare = any(isinstance(v, Point) for v in values) and not df
    first = values[0]
    return Cell(
        mean=round(interval.mean, stats.DECIMALS),
        low=None if bare else round(clamp(metric, interval.low), stats.DECIMALS),
        high=None if bare else round(clamp(metric, interval.high), stats.DECIMALS),
        n_prompts=min(v.n_prompts for v in values),
        n_runs=len(values),
        decoding_seeds=first.seeds if isinstance(first, Estimate) else [],
        note=f"{len(values)} of {len(grouped.runs)} training seeds ({why})" if reasons else "",
    )


_ABSENT: dict[Kind, tuple[str, str]] = {
    "score": ("not evaluated", "metric not computed"),
    "judge": ("not judged", "not measured by this judge"),
    "probe": ("not evaluated", "probe not run"),
}
"""Why there is no value: no such evaluation, or an evaluation without this metric."""


# -- probes and judges ----------------------------------------------------------------------------


def part(report: Report, name: str) -> Report:
    """A mapping in a report; an empty one where there is none."""
    found = report.get(name)
    return found if isinstance(found, Mapping) else {}


def probe_values(report: Report) -> dict[str, Value]:
    """Metrics of one entry of ``Summary.probes``; a probe that was not run has none.

    Args:
        report: probe name -> what it measured, as the runner stores it.
    """
    found: dict[str, Value] = {}
    for probe, read in _READERS.items():
        if isinstance(report.get(probe), Mapping):
            values = read(report[probe])
            found |= {metric: _undrawn(value) for metric, value in values.items()}
    return found


def judged_values(summary: Summary, key: str) -> Iterator[tuple[str, dict[str, Value]]]:
    """Judge id and metrics of every judge that has seen the answers of evaluation ``key``."""
    for judge in sorted(summary.judge):
        entry = summary.judge[judge]
        scores = entry.get("evaluations", {}).get(key) if isinstance(entry, Mapping) else None
        if scores:
            metrics = scores.get("metrics", {})
            yield judge, {JUDGE_PREFIX + name: stored_value(metrics[name]) for name in metrics}


def stored_value(stored: object, prompts: int = 0) -> Value:
    """An estimate, a missing value or a bare number (of so many prompts), as summaries store it."""
    if isinstance(stored, int | float):
        return Point(float(stored), prompts)
    try:
        if isinstance(stored, Mapping) and "missing" in stored:
            return Missing.model_validate(stored)
        return Estimate.model_validate(stored)
    except ValidationError:
        return Missing(missing="the summary holds no number here; run: kdbench score")


def _undrawn(value: Value) -> Value:
    """The same without the seed that every estimate lists: here no answer was drawn."""
    if isinstance(value, Estimate):
        return value.model_copy(update={"seeds": [], "per_seed": []})
    return value


def _exposure(report: Report) -> dict[str, Value]:
    prompts, last = report.get("prompts", 0), part(report, "at_length")
    found: dict[str, Value] = {}
    for name, metric in (("ex_acc_err", "exposure_excess"), ("R", "exposure_R")):
        value, low, high = map(part(last, name).get, ("value", "low", "high"))
        if value is None:
            reason = report.get("undefined") or "not defined at the full length"
            found[metric] = Missing(missing=str(reason))
        elif low is None or high is None:
            found[metric] = stored_value(value, prompts if isinstance(prompts, int) else 0)
        else:
            found[metric] = stored_value(
                {"mean": value, "low": low, "high": high, "n_prompts": prompts}
            )
    return found


def _calibration(report: Report) -> dict[str, Value]:
    """Of tokens of reference answers; a label task's own are among its scores."""
    if not isinstance(report.get("brier"), Mapping):
        return {}
    ece = stored_value(report.get("ece"))
    prompts = ece.n_prompts if isinstance(ece, Estimate) else 0
    return {
        "token_acc": stored_value(report.get("accuracy"), prompts),
        "token_brier": stored_value(report["brier"]),
        "token_ece": ece,
    }


def _named(names: Mapping[str, str]) -> Callable[[Report], dict[str, Value]]:
    return lambda report: {
        metric: stored_value(report[name]) for name, metric in names.items() if name in report
    }


def _self_bleu(report: Report) -> dict[str, Value]:
    return {"self_bleu": stored_value(report if "missing" in report else report.get("mean"))}


_READERS: dict[str, Callable[[Report], dict[str, Value]]] = {
    "exposure": _exposure,
    "calibration": _calibration,
    "loss": _named({"loss": "reference_loss"}),
    "truth": _named(
        {name: name for name in ("kl_true_student", "kl_student_true", "modes_covered", "invalid")}
    ),
    "self_bleu": _self_bleu,
}
