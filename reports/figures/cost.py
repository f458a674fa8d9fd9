"""What a run cost, stage by stage."""

from collections.abc import Mapping

from kdbench.harness.files.records import Missing, StageCost
from kdbench.reports.figures import Drawable, Plot, Rows, plotting
from kdbench.reports.figures.plotting import Figure


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
    return Plot(rows, _draw, caption)


def _draw(rows: Rows) -> Figure:
    figure, axes = plotting.canvas(6.0, 0.7 + 0.28 * len(rows))
    seconds = [row["wall_s"] for row in rows]
    bars = axes.barh(range(len(rows)), seconds, height=0.62, color=plotting.COLOURS[0])
    axes.bar_label(bars, [f"{value:.3g} s" for value in seconds], padding=3, fontsize=8)
    plotting.rows_down(axes, [row["stage"] for row in rows], margin=0.55)
    axes.set_xlim(0, 1.15 * max([*seconds, 1e-9]))
    axes.set_xlabel("wall time (s)")
    return figure
