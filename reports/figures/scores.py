"""Scores in pictures: by length of the reference, and against what the training cost; and the costs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from kdbench.harness.files.records import Missing, StageCost
from kdbench.harness.metrics import info
from kdbench.reports.figures import Drawable, Plot, Rows, names, pick, plotting
from kdbench.reports.figures.plotting import Axes, Figure

PAPERS = {"minillm": "MiniLLM", "dpkd": "DPKD"}
"""Whose bounds of reference length; the keys are those of the runner's text report."""
Cost = Literal["seconds", "tokens"]
COST_LABELS: dict[Cost, str] = {
    "seconds": "training time (s)",
    "tokens": "tokens through the student while training",
}


class CostPoint(NamedTuple):
    """One model on one task. ``cost`` is None for a model that was not trained here."""

    series: str
    run: str
    task: str
    mean: float
    low: float
    high: float
    cost: float | None


def length_buckets(
    reports: Mapping[str, Mapping[str, Any]], metric: str = "rouge_l", counted: str = "student"
) -> Drawable:
    """A metric by length of the shortest reference.

    Args:
        reports: series (a model) -> task -> probe report ``text`` of its evaluation.
        metric: which one.
        counted: by whose tokens: ``student`` or ``gpt2``.
    """
    rows: Rows = []
    for series, tasks in reports.items():
        for task, report in tasks.items():
            sets = report.get("buckets", {}).get(counted, {})
            for paper, title in PAPERS.items():
                for bucket, found in sets.get(paper, {}).items():
                    value = found["metrics"].get(metric, {})
                    if "mean" not in value:  # an empty bucket, or a metric it lacks
                        continue
                    rows.append(
                        {
                            "task": task,
                            "bounds": title,
                            "bucket": bucket,
                            "series": series,
                            "metric": metric,
                            "prompts": found["n"],
                            **{key: value[key] for key in ("mean", "low", "high")},
                        }
                    )
    if not rows:
        return Missing(missing="no answer was scored by reference length; run: kdbench score")
    tokenizer = "the student's tokenizer" if counted == "student" else "GPT-2's tokenizer"
    caption = (
        f"{info(metric).label} by length of the shortest reference, in tokens of {tokenizer}, "
        "within the bounds of both papers; n is the number of prompts, bars are 95% intervals over "
        "prompts."
    )
    return Plot(rows, _draw_buckets, caption)


def quality_cost(
    points: Sequence[CostPoint], metric: str = "rouge_l", unit: Cost = "seconds"
) -> Drawable:
    """A metric against the cost of training, one point a run; untrained models are level lines.

    Args:
        points: several models on one or more tasks.
        metric: what ``mean`` is.
        unit: what ``cost`` is.
    """
    trained = Counter(point.task for point in points if point.cost is not None)
    shown = [point for point in points if trained[point.task] > 1]
    if not shown:
        return Missing(missing="no two trained runs of this suite and pair share an evaluation")
    rows = [{"metric": metric, "cost_unit": unit, **point._asdict()} for point in shown]
    machine = "as measured on each run's own machine; " if unit == "seconds" else ""
    caption = (
        f"{info(metric).label} against {COST_LABELS[unit]}: {machine}shared teacher and init are not "
        "counted. Bars are 95% intervals over prompts; grey lines are models that no method here "
        "trained (an arrow: out of the picture, with its value)."
    )
    return Plot(rows, _draw_quality_cost, caption)


def cost_by_stage(cost: Mapping[str, StageCost]) -> Drawable:
    """Wall seconds a stage as bars; tokens and peak memory in the table.

    Args:
        cost: stage -> what it cost, as in ``Summary.cost``.
    """
    if not cost:
        return Missing(missing="no stage has booked its cost")
    rows: Rows = [
        {
            "stage": stage,
            "wall_s": spent.wall_s,
            "peak_mb": spent.peak_mb,
            **{f"{kind}_tokens": count for kind, count in spent.tokens.items()},
        }
        for stage, spent in cost.items()
    ]
    caption = "Wall time by stage; shared teacher, init and reference rows are not counted."
    return Plot(rows, _draw_cost, caption)


# -- drawing --------------------------------------------------------------------------------------


def _draw_buckets(rows: Rows) -> Figure:
    tasks = names(rows, "task")
    lines = [_bucket_lines(pick(rows, task=task)) for task in tasks]
    pitch = max(0.24, 0.11 * len(names(rows, "series")))
    heights = [len(found) * pitch + 0.35 for found in lines]
    figure, plots = plotting.panels(6.0, sum(heights) + 0.9, heights)
    series = names(rows, "series")
    for axes, task, found in zip(plots, tasks, lines, strict=True):
        for place, name in enumerate(series):
            shift = (place - (len(series) - 1) / 2) * min(0.22, 0.8 / len(series))
            for row in pick(rows, task=task, series=name):
                level = found.index((row["bounds"], row["bucket"])) + shift
                _whisker(axes, row, level, place)
        labels = [_bucket_label(pick(rows, task=task), *line) for line in found]
        plotting.rows_down(axes, labels)
        for place, ((before, _), (paper, _)) in enumerate(pairwise(found)):
            if paper != before:
                axes.axhline(place + 0.5, color=plotting.GRID, linewidth=0.8)
        axes.set_title(plotting.text(task))
    plots[-1].set_xlabel(info(rows[0]["metric"]).label)
    if len(series) > 1:
        plotting.legend_below(figure, plots)
    return figure


def _bucket_lines(rows: Rows) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["bounds"], row["bucket"]) for row in rows))


def _bucket_label(rows: Rows, bounds: str, bucket: str) -> str:
    counts = sorted({row["prompts"] for row in pick(rows, bounds=bounds, bucket=bucket)})
    return f"{bounds} {bucket}, n = {'/'.join(map(str, counts))}"


def _whisker(axes: Axes, row: dict[str, Any], level: float, place: int) -> None:
    colour, marker = plotting.look(place)
    bounds = [row["low"], row["high"]]
    axes.plot(bounds, [level, level], color=colour, linewidth=1.4, solid_capstyle="butt")
    name = plotting.text(row["series"])
    axes.plot([row["mean"]], [level], marker, color=colour, label=name, zorder=3)


def _draw_quality_cost(rows: Rows) -> Figure:
    tasks = names(rows, "task")
    columns = min(2, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    series = names([row for row in rows if row["cost"] is not None], "series")
    height = 2.5 * lines + 0.25 * math.ceil(len(series) / 4) + 0.3
    figure, plots = plotting.panels(
        3.5 * columns + 0.3, height, [1.0] * lines, columns=columns, count=len(tasks)
    )
    for axes, task in zip(plots, tasks, strict=True):
        found = pick(rows, task=task)
        for row in found:
            if row["cost"] is not None:
                _cost_point(axes, row, series.index(row["series"]))
        _levels(axes, [row for row in found if row["cost"] is None])
        axes.set_title(plotting.text(task))
        axes.set_ylabel(info(rows[0]["metric"]).label)
    for axes in plots[-columns:]:
        axes.set_xlabel(COST_LABELS[rows[0]["cost_unit"]])
        plotting.thousands(axes.xaxis)
    plots[0].set_xlim(0, 1.2 * max(row["cost"] or 0 for row in rows))  # room for names
    plotting.legend_below(figure, plots)
    return figure


def _cost_point(axes: Axes, row: dict[str, Any], place: int) -> None:
    colour, marker = plotting.look(place)
    axes.plot([row["cost"]] * 2, [row["low"], row["high"]], color=colour, linewidth=1.2)
    name = plotting.text(row["series"])
    axes.plot(
        [row["cost"]], [row["mean"]], marker, color=colour, markersize=6, label=name, clip_on=False
    )


def _levels(axes: Axes, rows: Rows) -> None:
    """Untrained models as named lines; one that would flatten the runs is only named, with an arrow."""
    low, high = axes.get_ylim()
    reach = high - low
    near = [row for row in rows if low - reach / 2 < row["mean"] < high + reach / 2]
    means = [row["mean"] for row in near]
    low, high = min([low, *(m - reach / 20 for m in means)]), max([high, *means])
    high += 0.1 * (high - low) * (1 + len(rows) - len(near))
    axes.set_ylim(low, high)
    for row in near:
        axes.axhline(row["mean"], **plotting.DASHED, zorder=1)
        _name(axes, row["series"], row["mean"], transform=axes.get_yaxis_transform())
    far = [row for row in rows if row not in near]
    for place, row in enumerate(sorted(far, key=lambda row: -row["mean"])):
        arrow = "↑" if row["mean"] > high else "↓"
        label = f"{arrow} {row['series']} {row['mean']:.1f}"
        _name(axes, label, 0.99 - 0.09 * place, transform=axes.transAxes, va="top")


def _name(axes: Axes, label: str, level: float, *, transform: Any, va: str = "bottom") -> None:
    axes.text(
        0.99,
        level,
        plotting.text(label),
        transform=transform,
        ha="right",
        va=va,
        fontsize=7.5,
        color=plotting.DIM,
    )


def _draw_cost(rows: Rows) -> Figure:
    figure, axes = plotting.canvas(6.0, 0.7 + 0.28 * len(rows))
    seconds = [row["wall_s"] for row in rows]
    bars = axes.barh(range(len(rows)), seconds, height=0.62, color=plotting.COLOURS[0])
    axes.bar_label(bars, [f"{value:.3g} s" for value in seconds], padding=3, fontsize=8)
    plotting.rows_down(axes, [row["stage"] for row in rows], margin=0.55)
    axes.set_xlim(0, 1.15 * max([*seconds, 1e-9]))
    axes.set_xlabel("wall time (s)")
    return figure
