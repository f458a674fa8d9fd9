"""Drawing, and the only importer of matplotlib.

Equal numbers give equal bytes with the same matplotlib: the user's own style file is ignored, SVG
ids are salted with a constant, no file carries a date, and glyphs are drawn as paths from the font
that matplotlib ships, so that a figure looks alike on every machine.
"""

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from kdbench.harness.files.store import write_bytes, write_text
from kdbench.reports.text.csv import csv_text, frame

__all__ = [
    "COLOURS", "DASHED", "DIM", "DPI", "GRID", "Axes", "Figure", "canvas", "dots", "legend_below",
    "look", "panels", "rows_down", "short", "style", "text", "thousands", "write",
]  # fmt: skip
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
"""Okabe and Ito's palette (2008), told apart under all common colour-vision deficiencies; the
yellow, too pale for lines on white, comes last."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Beside the colours, so that a grey print keeps its series apart."""
DIM = "#5b6570"
GRID = "#d5dae0"
DPI = 150
DASHED: dict[str, Any] = {"color": DIM, "linewidth": 1.0, "linestyle": (0, (4, 2))}
"""A line to compare with."""
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": DIM,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "savefig.dpi": DPI,
    "svg.fonttype": "path",
    "svg.hashsalt": "kdbench",
    "xtick.color": DIM,
    "xtick.labelcolor": "#000000",
    "xtick.labelsize": 8,
    "ytick.color": DIM,
    "ytick.labelcolor": "#000000",
    "ytick.labelsize": 8,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Our settings and nothing of the user's, for as long as a figure is drawn and written."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams  # typed with the names of this one version
        parameters.update(_STYLE)
        yield


def look(place: int) -> tuple[str, str]:
    """Colour and marker of a series; beyond eight a colour returns, with another marker."""
    turns, colour = divmod(place, len(COLOURS))
    return COLOURS[colour], MARKERS[(place + turns) % len(MARKERS)]


def canvas(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """An empty figure of one plot; sizes in inches."""
    figure, (axes,) = panels(width_in, height_in, [1.0])
    return figure, axes


def panels(
    width_in: float,
    height_in: float,
    heights: Sequence[float],
    *,
    columns: int = 1,
    count: int | None = None,
    share: Literal["all", "none"] = "all",
) -> tuple[Figure, tuple[Axes, ...]]:
    """An empty figure of several plots.

    Args:
        width_in: width in inches.
        height_in: height in inches.
        heights: relative height of each row of plots, from the top.
        columns: plots in a row.
        count: plots in all, where the last row is not full; None: it is.
        share: which plots have one horizontal axis.

    Returns:
        The figure, and its plots row by row; the lowest of each column has its ticks labelled.
    """
    with style():
        figure = Figure(figsize=(width_in, height_in))
        FigureCanvasAgg(figure)
        grid = figure.subplots(
            len(heights), columns, sharex=share, squeeze=False, height_ratios=list(heights)
        )
        plots = tuple(grid.flat)[:count]
        for axes in grid.flat[len(plots) :]:
            axes.remove()
        for axes in plots[-columns:]:
            axes.tick_params(labelbottom=True)
        return figure, plots


def legend_below(figure: Figure, plots: Iterable[Axes]) -> None:
    """One legend of all plots, a series once, under them."""
    handles: dict[str, Any] = {}
    for axes in plots:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(4, len(handles))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)


def text(value: object, limit: int = 48) -> str:
    """A label on one line, without what a renderer takes for markup or cannot draw."""
    line = " ".join(str(value).split())
    line = "".join(c for c in line if c.isprintable())
    line = line if len(line) <= limit else f"{line[: limit - 1]}…"
    return line.replace("$", r"\$")  # a pair of dollars would be read as mathematics


def rows_down(axes: Axes, labels: Sequence[str], margin: float = 0.6) -> None:
    """Names of rows, the first on top, at 0, 1 …, with so much room above the first one."""
    axes.set_yticks(range(len(labels)), [text(label) for label in labels])
    axes.set_ylim(len(labels) - 1 + margin, -margin)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def dots(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    *,
    zero: float | None = None,
) -> None:
    """Rows of a dot with whiskers, the first on top.

    Args:
        axes: where to draw.
        labels: one a row.
        values: the dots.
        lows: left ends; None: no whisker.
        highs: right ends; None: no whisker.
        zero: where to draw a line of no difference; None: nowhere.
    """
    with style():
        rows = range(len(labels))
        if zero is not None:
            axes.axvline(zero, **DASHED, zorder=1)
        for row, low, high in zip(rows, lows, highs, strict=True):
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=COLOURS[0], solid_capstyle="butt")
        axes.plot(list(values), list(rows), "o", color=COLOURS[0], markersize=5, zorder=3)
        rows_down(axes, labels)
        axes.spines["left"].set_visible(False)


ENDINGS = (".svg", ".png", ".csv")
"""Of the files of a figure: two pictures and the plotted numbers."""


def write(figure: Figure, stem: Path, table: Sequence[Mapping[str, object]]) -> list[Path]:
    """Writes ``<stem>.svg``, ``<stem>.png`` and the plotted numbers as ``<stem>.csv``.

    Args:
        figure: from `canvas` or `panels`.
        stem: path without an ending; a dot in its name stays.
        table: one row a plotted point.

    Returns:
        The three paths, in this order.

    Raises:
        InputError: a file cannot be written.
    """
    paths = [stem.with_name(stem.name + ending) for ending in ENDINGS]
    with style(), warnings.catch_warnings():
        # a name in a script that our font lacks is drawn as boxes; its CSV has it in full
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # arranged once, not again for each format
        for path, metadata in ((paths[0], {"Date": None, "Creator": None}), (paths[1], None)):
            sink = io.BytesIO()
            kind = path.suffix[1:]
            figure.savefig(sink, format=kind, metadata=metadata or {"Software": None})
            write_bytes(path, sink.getvalue())
    write_text(paths[2], csv_text(frame(table)))
    return paths


def thousands(axis: Axis) -> None:
    """Writes the ticks of an axis as 50k, 1.5M."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """A count in few characters: 950, 50k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
