"""A terminal: every line within its width, nothing cut; foreign text can neither move the cursor nor hide."""

import io
import os
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from kdbench.reports.text.document import (
    Block,
    Cell,
    Code,
    Document,
    Note,
    Notes,
    Paragraph,
    Piece,
    Small,
    Strong,
    Table,
    pieces,
)
from kdbench.reports.text.style import printable, visible
from kdbench.reports.text.writer import Writer, split

GAP = 2
"""Blanks between columns."""
NARROW = 14
"""Columns of the screen that text of a table keeps at least, if it is as long."""
ENDLESS = 10_000
"""Width where no person looks, so that a program finds each row on one line."""


def screen() -> int:
    """Columns of the terminal that standard output is, or what ``COLUMNS`` says; else `ENDLESS`."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return shutil.get_terminal_size().columns
    return ENDLESS


def show(document: Document) -> None:
    """Prints a document: on a terminal within its width, elsewhere a row a line."""
    print(Terminal(screen(), colour=sys.stdout.isatty()).write(document), end="")


class Layout(NamedTuple):
    """How a table is drawn: the cells of each column, and how wide it is."""

    columns: list[list[Text]]
    widths: list[int]


class Terminal(Writer):
    """Writes lines for a screen.

    Args:
        width: columns of the screen.
        colour: whether it understands bold and dim.
    """

    def __init__(self, width: int, *, colour: bool = False) -> None:
        super().__init__()
        self.width = max(width, NARROW)
        self.colour = colour

    def heading(self, text: str, level: int) -> str:
        """Bold."""
        return self._lines(Text(printable(text), style="bold"))

    def paragraph(self, paragraph: Paragraph) -> str:
        """Broken between words."""
        return self._lines(self.cell(paragraph.content))

    def notes(self, notes: Notes) -> str:
        """A line each, then the signature."""
        lines = self.note_lines(notes)
        lines += [f"signature: {notes.signature}"] if notes.signature else []
        return "\n".join(self._lines(self.cell(line)) for line in lines)

    def block(self, block: Block) -> str:
        """The lines unbroken, to be copied."""
        return visible(block.text)

    def cell(self, cell: Cell, separator: str = " ") -> Text:
        """A cell with its styles; ``separator`` comes before what is small."""
        return Text.assemble(*(self._piece(piece, separator) for piece in pieces(cell)))

    def _piece(self, piece: Piece, separator: str) -> str | tuple[str, str]:
        match piece:
            case str():
                return printable(piece)
            case Code():
                return printable(piece.text)
            case Strong():
                return (printable(piece.text + piece.mark), "bold")
            case Small():
                return separator + printable(piece.text)
            case Note():
                return f" {self.footnotes.mark(piece.reason)}"

    def table(self, table: Table) -> str:
        """Whole if its columns have room, else in parts, or even row by row."""
        if not table.head or self._layout(table, NARROW):
            return self._part(table)
        parts = [table]
        for least in (ENDLESS, NARROW):  # rather in more parts than with words one below another
            parts = split(table, lambda part, least=least: self._layout(part, least) is not None)
            if all(self._layout(part, least) for part in parts):
                break
        return "\n\n".join(map(self._part, parts))

    def _part(self, table: Table) -> str:
        layout = self._layout(table, NARROW if table.head else 1)
        if layout is None:
            names = [" ".join(name.split("\n")) for name in _names(table)]
            rows = [Table([], list(zip(names, row, strict=True))) for row in table.rows]
            return "\n\n".join(map(self._part, rows))
        drawn = RichTable(
            box=None,
            pad_edge=False,
            padding=(0, GAP // 2),
            header_style="bold",
            show_header=bool(table.head),
        )
        for place, (column, width) in enumerate(zip(layout.columns, layout.widths, strict=True)):
            side = "right" if place in table.right else "left"
            drawn.add_column(
                column[0] if table.head else "", width=width, justify=side, overflow="fold"
            )
        heads = bool(table.head)
        for place, cells in enumerate(
            zip(*(column[heads:] for column in layout.columns), strict=True)
        ):
            drawn.add_row(*cells, style="dim" if place < table.references else "")
        return self._lines(drawn)

    def _layout(self, table: Table, least: int) -> Layout | None:
        """On as few lines as there is room for; None: there is not.

        Args:
            table: the table.
            least: width to which text may be broken between words; 1: anywhere.
        """
        for narrow in (ENDLESS, least):
            for separator in (" ", "\n"):
                columns = self._columns(table, separator)
                full = [_longest(column, "\n") for column in columns]
                need = [
                    size if place in table.right else max(min(size, narrow), _longest(column))
                    for place, (size, column) in enumerate(zip(full, columns, strict=True))
                ]
                need = need if narrow > 1 else [1] * len(full)
                spare = self.width - GAP * (len(full) - 1) - sum(need)
                if spare >= 0:
                    return Layout(columns, _grown(need, full, spare))
        return None

    def _columns(self, table: Table, separator: str) -> list[list[Text]]:
        """The cells of each column, its head first."""
        heads = [Text(printable(name)) for name in _names(table)]
        rows = [[self.cell(cell, separator) for cell in row] for row in table.rows]
        return [list(column) for column in zip(*([heads] if heads else []), *rows, strict=True)]

    def _lines(self, drawn: RenderableType) -> str:
        sink = io.StringIO()
        console = Console(
            file=sink,
            width=self.width,
            force_terminal=self.colour,
            color_system="standard" if self.colour else None,
            highlight=False,
            legacy_windows=False,
        )
        console.print(drawn)
        return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def _names(table: Table) -> list[str]:
    """Heads of the columns, the group's name above."""
    groups = table.groups or [""] * len(table.head)
    return [
        f"{group}\n{name}" if group else name
        for group, name in zip(groups, table.head, strict=True)
    ]


def _longest(column: Sequence[Text], between: str | None = None) -> int:
    """Width of the longest word, or of the longest line, of a column."""
    return max((cell_len(part) for cell in column for part in cell.plain.split(between)), default=0)


def _grown(need: Sequence[int], full: Sequence[int], spare: int) -> list[int]:
    """Widths between what columns need and what they could fill, those that lack least first."""
    widths = list(need)
    order = sorted(range(len(full)), key=lambda place: full[place] - need[place])
    for left, place in zip(range(len(order), 0, -1), order, strict=True):
        more = min(full[place] - need[place], spare // left)
        widths[place] += more
        spare -= more
    return widths
