"""Probes in pictures: exposure bias and calibration."""

from collections.abc import Mapping
from typing import Any

from kdbench.harness.files.records import Missing
from kdbench.reports.figures import Drawable, Plot, Rows, names, pick, plotting
from kdbench.reports.figures.plotting import Axes, Figure

EXPOSURE = {
    "ex_acc_err": "ExAccErr (%)",
    "R": "accumulated error (nats)",
    "L_eps": "accumulated error (nats)",
    "eps": "ε, error per token (nats)",
}
"""Curve of the probe's report -> the plot it is drawn in."""
BOUNDS = ("value", "low", "high")
LINEAR = 100
"""Up to so many predictions in a bin, their axis is linear; beyond, logarithmic."""
SYMBOLS = {"R": "R, own contexts", "L_eps": "Lε, teacher contexts"}


def exposure_curves(reports: Mapping[str, Mapping[str, Any]]) -> Drawable:
    """ExAccErr, R and L·ε, and ε against the length of the answer, with 95% bands.

    Args:
        reports: series (a student) -> probe report ``exposure``.
    """
    rows: Rows = []
    for series, report in reports.items():
        for name in EXPOSURE:
            curve = report[name]
            bounds = zip(*(curve[key] for key in BOUNDS), strict=True)
            rows += [
                {"quantity": name, "series": series, "length": length}
                | dict(zip(BOUNDS, point, strict=True))
                for length, point in enumerate(bounds, start=1)
                if point[0] is not None  # ε is 0 there: the ratio has no value
            ]
    if not rows:
        return Missing(missing="exposure bias was not measured; add exposure to the probes")
    first = next(iter(reports.values()))
    caption = (
        "By answer length L, against the teacher: accumulated error on the student's own contexts (R) "
        "and on the teacher's (Lε), its excess ExAccErr = (R − Lε) / (Lε), and ε; "
        f"bands are 95% intervals over {first['prompts']} prompts, {first['samples']} answers each."
    )
    return Plot(rows, _draw_exposure, caption)


def reliability(reports: Mapping[str, Mapping[str, Any]]) -> Drawable:
    """Accuracy against confidence by bin, and how many predictions each bin holds.

    Args:
        reports: series (a model) -> probe report ``calibration`` of one evaluation.
    """
    rows: Rows = [
        {
            "series": series,
            **{key: bin_[key] for key in ("low", "high", "count", "confidence", "accuracy")},
            "ece": report["ece"]["mean"],
        }
        for series, report in reports.items()
        for bin_ in report["bins"]
    ]
    if not any(row["count"] for row in rows):
        return Missing(missing="calibration was not measured; add calibration to the probes")
    first = next(iter(reports.values()))
    caption = (
        f"{first['of']}; {first['binning']}. On the diagonal confidence equals "
        "accuracy. Below: predictions in each bin."
    )
    return Plot(rows, _draw_reliability, caption)


# -- drawing --------------------------------------------------------------------------------------


def _draw_exposure(rows: Rows) -> Figure:
    titles = list(dict.fromkeys(EXPOSURE.values()))
    figure, plots = plotting.panels(6.0, 6.2, [1.2, 1.2, 1.0])
    series = names(rows, "series")
    for axes, title in zip(plots, titles, strict=True):
        for name in (name for name, where in EXPOSURE.items() if where == title):
            for place, who in enumerate(series):
                found = pick(rows, quantity=name, series=who)
                if found:
                    _band(axes, found, place, name, f"{who}: " if len(series) > 1 else "")
        axes.set_ylabel(title)
        if any(axes.get_legend_handles_labels()[1]):
            axes.legend(loc="best")
    plots[0].axhline(0.0, color=plotting.DIM, linewidth=0.8)
    plots[-1].set_ylim(bottom=0.0)
    plots[-1].set_xlabel("answer length L (tokens)")
    plots[-1].set_xlim(left=0)
    return figure


def _band(axes: Axes, rows: Rows, place: int, name: str, prefix: str) -> None:
    colour, _ = plotting.look(place)
    label = plotting.text(f"{prefix}{SYMBOLS.get(name, '')}".removesuffix(": "))
    lengths = [row["length"] for row in rows]
    values, low, high = ([row[key] for row in rows] for key in BOUNDS)
    if None not in low and None not in high:
        axes.fill_between(lengths, low, high, color=colour, alpha=0.15, linewidth=0)
    dashes = (0, (4, 2)) if name == "L_eps" else "solid"
    axes.plot(lengths, values, color=colour, linestyle=dashes, label=label)


def _draw_reliability(rows: Rows) -> Figure:
    figure, (above, below) = plotting.panels(4.4, 4.9, [2.6, 1.0])
    above.plot([0, 1], [0, 1], **plotting.DASHED)
    for place, who in enumerate(names(rows, "series")):
        colour, marker = plotting.look(place)
        bins = pick(rows, series=who)
        held = [row for row in bins if row["count"]]
        above.plot(
            [row["confidence"] for row in held],
            [row["accuracy"] for row in held],
            f"{marker}-",
            color=colour,
            label=plotting.text(f"{who}, ECE {bins[0]['ece']:.3f}"),
        )
        edges = [bins[0]["low"], *[row["high"] for row in bins]]
        below.stairs([row["count"] for row in bins], edges, color=colour, linewidth=1.4)
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    above.legend(loc="best")
    if max(row["count"] for row in rows) > LINEAR:
        below.set_yscale("log")
        below.set_ylim(bottom=0.8)
    plotting.thousands(below.yaxis)
    below.set(ylabel="predictions", xlabel="confidence")
    return figure
