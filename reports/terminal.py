"""A board on a terminal."""

import io
import shutil

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.model import Board, Cell, Table
from kdbench.reports.printable import printable
from kdbench.reports.text import Footnotes, footer, interval, number, row_label


def render_terminal(board: Board, *, width: int | None = None, colour: bool = False) -> str:
    """Tables as a person reads them after a run: headline metrics, lines within ``width``.

    Names and reasons come from users and models; a control character in them is shown, not sent.

    Args:
        board: what to draw.
        width: columns of the terminal; None: the terminal's own (100 where there is none).
        colour: use ANSI styles (bold cells, dim references).
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    parts = [_terminal_table(table, width, colour) for table in board.tables]
    if board.left_out:
        parts.append(printable("left out: " + "; ".join(board.left_out)) + "\n")
    return "\n".join(parts)


def _terminal_table(table: Table, width: int, colour: bool) -> str:
    footnotes = Footnotes()
    known = [i for i, column in enumerate(table.columns) if info(column.metric).headline]
    blocks = _fit(table, known or list(range(len(table.columns))), width, footnotes)
    body = "\n".join(_draw(drawn, width, colour) for drawn in blocks)
    lines_below = [*footer(table, footnotes, "terminal"), f"signature: {table.signature}"]
    lines = [printable(table.title), body.rstrip("\n"), *map(printable, lines_below)]
    return "\n".join(lines) + "\n"


def _fit(table: Table, indices: list[int], width: int, footnotes: Footnotes) -> list[RichTable]:
    """One line a cell if that fits, else two, else one table a task."""
    probe = Console(width=10_000, file=io.StringIO())
    for separator in (" ", "\n"):
        drawn = _rich(table, indices, separator, footnotes)
        if probe.measure(drawn).maximum <= width:
            return [drawn]
    headings = list(dict.fromkeys(table.columns[i].heading for i in indices))
    if len(headings) == 1:
        return [drawn]
    split = [[i for i in indices if table.columns[i].heading == head] for head in headings]
    return [drawn for part in split for drawn in _fit(table, part, width, footnotes)]


def _rich(table: Table, indices: list[int], separator: str, footnotes: Footnotes) -> RichTable:
    drawn = RichTable(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    drawn.add_column("", no_wrap=True)
    for index in indices:
        column = table.columns[index]
        label = f"{printable(column.heading)}\n{printable(info(column.metric).label)}"
        drawn.add_column(Text(label), justify="right", no_wrap=True)
    for row, cells in zip(table.rows, table.cells, strict=True):
        texts = [
            _terminal_cell(cells[i], table.columns[i].metric, separator, footnotes) for i in indices
        ]
        drawn.add_row(Text(printable(row_label(row))), *texts, style="dim" if row.reference else "")
    return drawn


def _terminal_cell(cell: Cell | Missing, metric: str, separator: str, footnotes: Footnotes) -> Text:
    if isinstance(cell, Missing):
        return Text(f"– {footnotes.mark(cell.missing)}")
    mark = "*" if cell.bold else ""
    note = f" {footnotes.mark(cell.note)}" if cell.note else ""
    text = Text(f"{number(cell.mean, metric)}{mark}", style="bold" if cell.bold else "")
    text.append(f"{separator}{interval(cell, metric)}{note}", style="not bold")
    return text


def _draw(drawn: RichTable, width: int, colour: bool) -> str:
    sink = io.StringIO()
    console = Console(
        file=sink,
        width=max(width, 40),
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
    )
    console.print(drawn)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"
