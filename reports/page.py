"""A board as one self-contained HTML page: no server, no network, no script but its own.

Every text goes through jinja2's escaping; the page's Content-Security-Policy allows only the one
style and the one script whose hashes it names, so even an escape that was missed runs nothing.
"""

import base64
import hashlib
from importlib import resources
from typing import NamedTuple

import jinja2

from kdbench.harness.records import Missing
from kdbench.reports.metrics import info
from kdbench.reports.model import Board, Cell, Column, Table
from kdbench.reports.text import Footnotes, footer, interval, number, row_label


class DrawnCell(NamedTuple):
    """What the template shows of one cell; positions are percent of the column's range."""

    mean: str
    interval: str
    bold: bool
    sort: str
    reason: str
    left: float
    width: float
    dot: float


class DrawnPair(NamedTuple):
    """One entry of the matrix of paired tests."""

    text: str
    significant: bool


def render_html(board: Board) -> str:
    """The page, sortable and filterable, light and dark."""
    files = resources.files("kdbench.reports")
    style = (files / "page.css").read_text(encoding="utf-8")
    script = (files / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((files / "page.html").read_text(encoding="utf-8"))
    return template.render(
        tables=[_table(table) for table in board.tables],
        left_out=board.left_out,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _table(table: Table) -> dict[str, object]:
    footnotes = Footnotes()
    ranges = [_range(table, index) for index in range(len(table.columns))]
    rows = []
    for row, cells in zip(table.rows, table.cells, strict=True):
        drawn = [
            _cell(cell, column, ends, footnotes)
            for cell, column, ends in zip(cells, table.columns, ranges, strict=True)
        ]
        rows.append({"row": row, "label": row_label(row), "cells": drawn})
    return {
        "title": table.title,
        "columns": [(column, info(column.metric).label) for column in table.columns],
        "rows": rows,
        "footer": footer(table, footnotes, "text"),
        "signature": table.signature,
        "matrices": [m for i in range(len(table.columns)) if (m := _matrix(table, i))],
    }


def _range(table: Table, index: int) -> tuple[float, float]:
    """Lowest and highest bound in a column, never equal."""
    cells = [row[index] for row in table.cells]
    bounds = [bound for c in cells if isinstance(c, Cell) for bound in (c.low, c.high)]
    low, high = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _cell(
    cell: Cell | Missing, column: Column, ends: tuple[float, float], footnotes: Footnotes
) -> DrawnCell:
    if isinstance(cell, Missing):
        footnotes.mark(cell.missing)
        return DrawnCell("–", "", False, "", cell.missing, 0.0, 0.0, 0.0)
    if cell.note:
        footnotes.mark(cell.note)
    low, high = ends
    left, dot, right = (
        round(100 * (value - low) / (high - low), 2) for value in (cell.low, cell.mean, cell.high)
    )
    return DrawnCell(
        number(cell.mean, column.metric),
        interval(cell, column.metric),
        cell.bold,
        repr(cell.mean),
        cell.note,
        left,
        round(right - left, 2),
        dot,
    )


def _matrix(table: Table, index: int) -> dict[str, object] | None:
    """Holm-corrected p-values of a column's pairs; the row minus the column in each entry."""
    pairs = table.pairs[index]
    if not pairs:
        return None
    tested = {row for pair in pairs for row in (pair.a, pair.b)}
    rows = [row for row in table.rows if row.id in tested]
    column = table.columns[index]
    found: dict[tuple[str, str], DrawnPair] = {}
    for pair in pairs:
        for key, sign in (((pair.a, pair.b), 1), ((pair.b, pair.a), -1)):
            difference = number(sign * pair.difference, column.metric)
            text = f"{difference} (p {pair.p_holm:.3f})"
            found[key] = DrawnPair(text, pair.p_holm < 0.05)
    empty = DrawnPair("", False)
    return {
        "title": f"{column.heading} {info(column.metric).label}",
        "labels": [row.label for row in rows],
        "rows": [(row.label, [found.get((row.id, c.id), empty) for c in rows]) for row in rows],
    }
