"""How a training went: losses and development scores against response tokens."""

import math
from collections.abc import Sequence
from typing import Any

from kdbench.harness.files.records import Missing, TrainRow
from kdbench.reports.figures import Drawable, Plot, Rows, names, pick, plotting
from kdbench.reports.figures.plotting import Axes, Figure

POINTS = 300
"""Most points of one curve; a longer training is drawn as means over equal windows of steps."""
SMOOTH = 30
"""The bold line is a running mean over this share of the training: 1 / SMOOTH."""
TOKENS = "response tokens trained on"
LABELS = {"dev_loss": "dev loss", "dev_rouge_l": "dev ROUGE-L", "grad_norm": "gradient norm"}


def training_curves(rows: Sequence[TrainRow], selected: int | None) -> Drawable:
    """Loss and its terms, and every development score, against response tokens trained on.

    Args:
        rows: of metrics.jsonl.
        selected: step whose student was kept, if training is over.
    """
    trained = [row for row in rows if row.step > 0]
    if not trained:
        return Missing(missing="no optimiser step was logged")
    terms = [name for name in _logged(trained) if "/" not in name]
    points = _thinned(trained, "loss", "loss", [row.loss for row in trained])
    if len(terms) > 1 or terms == ["loss"]:
        for name in terms:
            points += _thinned(trained, "loss", name, _term(trained, name))
    for name in dict.fromkeys(name for row in rows for name in row.evaluation):
        points += [
            _point(row, name, name, row.evaluation[name]) | {"selected": int(row.step == selected)}
            for row in rows
            if name in row.evaluation
        ]
    window = _window(len(trained))
    thinned = f" Points are means over {window} steps." if window > 1 else ""
    kept = "" if selected is None else " The dashed line is the step whose student was kept."
    smoothed = (
        f" The bold line is a running mean over 1/{SMOOTH} of the training."
        if math.ceil(len(trained) / window) >= 2 * SMOOTH
        else ""
    )
    caption = f"Training loss as optimised, and development scores.{thinned}{smoothed}{kept}"
    return Plot(points, _draw_curves, caption)


def training_details(rows: Sequence[TrainRow]) -> Drawable:
    """Quantities that a method logs beside its loss, gradient norm and learning rate."""
    trained = [row for row in rows if row.step > 0]
    series = {name: _term(trained, name) for name in _logged(trained) if "/" in name}
    series["grad_norm"] = [row.grad_norm for row in trained]
    series["learning rate"] = [row.lr for row in trained]
    points: Rows = []
    for name, values in series.items():
        points += _thinned(trained, name, name, values)
    if not points:
        return Missing(missing="nothing was logged beside the loss")
    caption = (
        "What the method logs beside its loss (term/quantity, means over the tokens of a step), the "
        "gradient norm before clipping, and the learning rate."
    )
    return Plot(points, _draw_details, caption)


def _logged(rows: Sequence[TrainRow]) -> dict[str, None]:
    return dict.fromkeys(name for row in rows for name in row.terms)


def _term(rows: Sequence[TrainRow], name: str) -> list[float | None]:
    return [row.terms.get(name) for row in rows]


def _point(row: TrainRow, panel: str, series: str, value: float) -> dict[str, Any]:
    tokens = row.tokens.get("response", 0)
    place = {"response_tokens": tokens, "step": row.step}
    return {"panel": panel, "series": series, **place, "value": value}


def _window(count: int) -> int:
    return max(1, math.ceil(count / POINTS))


def _thinned(
    rows: Sequence[TrainRow], panel: str, name: str, values: Sequence[float | None]
) -> Rows:
    """Means over equal windows of steps, and their running mean; values that are no number left out."""
    window = _window(len(rows))
    points: Rows = []
    for start in range(0, len(rows), window):
        part = [v for v in values[start : start + window] if v is not None and math.isfinite(v)]
        if part:
            last = rows[min(start + window, len(rows)) - 1]
            points.append(_point(last, panel, name, sum(part) / len(part)))
    reach = len(points) // (2 * SMOOTH)
    for place, point in enumerate(points):
        near = points[max(0, place - reach) : place + reach + 1]
        point["smoothed"] = sum(p["value"] for p in near) / len(near)
    return points


# -- drawing --------------------------------------------------------------------------------------


def _draw_curves(rows: Rows) -> Figure:
    panels = names(rows, "panel")
    figure, plots = plotting.panels(
        6.4, 0.5 + 1.9 + 1.35 * (len(panels) - 1), [1.5, *[1.0] * (len(panels) - 1)]
    )
    kept = [row["response_tokens"] for row in rows if row.get("selected")]
    for axes, panel in zip(plots, panels, strict=True):
        for place, series in enumerate(names(pick(rows, panel=panel), "series")):
            _curve(axes, pick(rows, panel=panel, series=series), series, place)
        axes.set_ylabel(plotting.text(LABELS.get(panel, panel)))
        if kept:
            axes.axvline(kept[0], **plotting.DASHED)
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, borderaxespad=0.2)
    _tokens_axis(plots[-1])
    return figure


def _draw_details(rows: Rows) -> Figure:
    panels = names(rows, "panel")
    height = math.ceil(len(panels) / 2)
    figure, plots = plotting.panels(
        7.2, 0.4 + 1.45 * height, [1.0] * height, columns=2, count=len(panels)
    )
    for axes, panel in zip(plots, panels, strict=True):
        _curve(axes, pick(rows, panel=panel), None, 0)
        axes.set_title(plotting.text(LABELS.get(panel, panel)))
    _tokens_axis(plots[0])  # shared by all
    plots[0].set_xlabel("")
    figure.supxlabel(TOKENS, fontsize=9)
    return figure


def _curve(axes: Axes, rows: Rows, label: str | None, place: int) -> None:
    """Raw values pale, their running mean bold; evaluations as marked points."""
    colour, _ = plotting.look(place)
    places = [row["response_tokens"] for row in rows]
    values = [row["value"] for row in rows]
    name = "" if label is None else plotting.text(LABELS.get(label, label))
    if "smoothed" in rows[0]:
        axes.plot(places, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(places, [row["smoothed"] for row in rows], color=colour, label=name)
    else:
        axes.plot(places, values, "o-", color=colour, label=name, clip_on=False)


def _tokens_axis(axes: Axes) -> None:
    axes.set_xlabel(TOKENS)
    axes.set_xlim(left=0)
    plotting.thousands(axes.xaxis)
