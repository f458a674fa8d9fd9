"""Figures as pure functions from plain data.

Each returns a `Plot`, whose rows are all that is drawn, or `Missing` with the reason why there is
nothing to draw.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.files.records import Missing
from kdbench.reports.figures.plotting import ENDINGS, Figure, style, write

Rows = list[dict[str, Any]]


class Plot(NamedTuple):
    """A figure before it is drawn."""

    rows: Rows
    """One a plotted point; the CSV beside the figure."""
    draw: Callable[[Rows], Figure]
    caption: str


Drawable = Plot | Missing


def save(plot: Plot, stem: Path) -> list[Path]:
    """Draws a plot and writes it as ``<stem>.svg``, ``.png`` and ``.csv``.

    Raises:
        InputError: a file cannot be written.
    """
    with style():
        return write(plot.draw(plot.rows), stem, plot.rows)


def renew(plot: Drawable, stem: Path) -> None:
    """Saves a plot; where there is nothing to draw, files of an earlier one are taken away.

    Raises:
        InputError: a file cannot be written.
    """
    if not isinstance(plot, Missing):
        save(plot, stem)
        return
    for ending in ENDINGS:
        stem.with_name(stem.name + ending).unlink(missing_ok=True)


def pick(rows: Rows, **wanted: object) -> Rows:
    """The rows that have all the given values, in order."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def names(rows: Rows, key: str) -> list[Any]:
    """The different values of a column, in order of first appearance."""
    return list(dict.fromkeys(row[key] for row in rows))
