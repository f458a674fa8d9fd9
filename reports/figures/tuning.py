"""What more trials would bring: the expected best development score against their number."""

from collections.abc import Mapping, Sequence

from kdbench.harness.files.records import Missing
from kdbench.reports.figures import Drawable, Plot, Rows, names, pick, plotting
from kdbench.reports.figures.plotting import Figure
from kdbench.reports.text.style import development_label


def expected_scores(curves: Mapping[str, Sequence[float]], metric: str) -> Drawable:
    """A line a method: expected best score of n trials (Dodge et al. 2019, arXiv:1909.03004).

    Args:
        curves: method -> score for n = 1, 2, …
        metric: as the training logs it.
    """
    rows: Rows = [
        {"method": method, "trials": n, "score": score}
        for method, curve in curves.items()
        for n, score in enumerate(curve, start=1)
    ]
    if not rows:
        return Missing(missing="no trial has a score")
    label = development_label(metric)

    def draw(rows: Rows) -> Figure:
        return _draw(rows, label)

    return Plot(rows, draw, f"Expected best {label} of so many trials, by method")


def _draw(rows: Rows, label: str) -> Figure:
    methods = names(rows, "method")
    figure, axes = plotting.canvas(6.5, 4.5)
    for i, method in enumerate(methods):
        mine = pick(rows, method=method)
        x, y = [p["trials"] for p in mine], [p["score"] for p in mine]
        colour, marker = plotting.look(i)
        axes.plot(x, y, color=colour, marker=marker, markersize=3, label=plotting.text(method))
    axes.set_xlabel("trials")
    axes.set_ylabel(f"expected best {plotting.text(label)}")
    plotting.legend_below(figure, [axes])
    return figure
