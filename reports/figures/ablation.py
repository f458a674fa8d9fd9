"""A study in a picture: the difference of each row to the base, a panel a metric and task."""

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.ablation import Ablation
from kdbench.reports.figures import Drawable, Plot, Rows, names, pick, plotting
from kdbench.reports.figures.plotting import Figure

METRIC = "rouge_l"
EFFECT = ("difference", "low", "high", "p_holm")
PANELS = 10
"""Columns drawn, as five tasks sampled and greedy are; more would be too small to read."""


def differences(ablation: Ablation, metric: str = METRIC) -> Drawable:
    """Dots with whiskers: row minus base in one metric, and the paper's own difference if known.

    Args:
        ablation: the table.
        metric: which one; the table's first if it has no such.
    """
    metrics = [column.metric for column in ablation.columns]
    chosen = metric if metric in metrics else next(iter(metrics), metric)
    rows: Rows = []
    for row, cells in zip(ablation.rows, ablation.cells, strict=True):
        for column, cell in zip(ablation.columns, cells, strict=True):
            if column.metric == chosen and cell.effect:
                rows.append(
                    {
                        "row": row.label,
                        "task": column.heading,
                        "metric": info(chosen).label,
                        **{key: getattr(cell.effect, key) for key in EFFECT},
                        "paper": cell.paper.difference if cell.paper else None,
                    }
                )
    if not rows:
        return Missing(missing="no row can be compared with the base yet")
    base = ablation.base
    caption = f"{ablation.title}: row minus {base}, 95% intervals paired by prompt"

    def draw(rows: Rows) -> Figure:
        return _draw(rows, ablation.title, base)

    return Plot(rows, draw, caption)


def _draw(rows: Rows, title: str, base: str) -> Figure:
    tasks = names(rows, "task")[:PANELS]
    labels = names(rows, "row")
    height = 0.75 + 0.26 * len(labels)
    across = min(len(tasks), 3)
    down = -(-len(tasks) // across)
    widest = max(len(plotting.text(label)) for label in labels)
    figure, panels = plotting.panels(
        1.0 + 0.07 * widest + 2.1 * across,
        height * down + 0.3,
        [1.0] * down,
        columns=across,
        count=len(tasks),
        share="none",
    )
    marked = None
    for place, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
        mine = {row["row"]: row for row in pick(rows, task=task)}
        points = [mine[label] for label in labels if label in mine]
        plotting.dots(
            axes,
            ["" if place % across else p["row"] for p in points],
            *([p[key] for p in points] for key in EFFECT[:3]),
            zero=0.0,
        )
        papers = [(p["paper"], y) for y, p in enumerate(points) if p["paper"] is not None]
        if papers:
            axes.plot(
                *zip(*papers, strict=True),
                linestyle="none",
                marker="D",
                markersize=5,
                markerfacecolor="none",
                markeredgecolor=plotting.COLOURS[1],
                label="the paper's own",
            )
            marked = axes
        axes.set_title(plotting.text(task))
        axes.set_xlabel(f"difference in {plotting.text(points[0]['metric'])}")
    heading = f"{plotting.text(title, 70)}: row minus {plotting.text(base)}"
    figure.suptitle(heading, x=0.01, ha="left", fontsize=10)
    figure.get_layout_engine().set(w_pad=0.1)  # type: ignore[union-attr,call-arg]
    if marked is not None:
        figure.legend(*marked.get_legend_handles_labels(), loc="outside upper right")
    return figure
