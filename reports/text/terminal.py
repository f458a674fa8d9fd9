"""A terminal: every line within its width, nothing cut; foreign text can neither move the cursor nor hide."""

import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from kdbench.harness.printing import draw, printable, visible
from kdbench.reports.text import document as doc
from kdbench.reports.text.writer import Writer, pieces, split

GAP = 2
"""Blanks between columns."""
NARROW = 14
"""Columns of the screen that text of a table keeps at least, if it is as long."""
LABEL = 22
"""Columns of the screen to which names of rows are broken, so that their numbers stay on it."""
ENDLESS = 10_000
"""Width where no person looks, so that a program finds each row on one line."""


class Terminal(Writer):
    """Writes lines for a screen.

    Args:
        width: columns of the screen.
        colour: whether it understands bold and dim.
    """

    def __init__(self, width: int, *, colour: bool = False) -> None:
        super().__init__()
        self.console = Console(
            width=max(width, NARROW),
            force_terminal=colour,
            color_system="standard" if colour else None,
            highlight=False,
            legacy_windows=False,
        )

    def heading(self, text: str, level: int) -> str:
        """Bold."""
        return self.paragraph(doc.Paragraph(doc.Strong(text)))

    def paragraph(self, paragraph: doc.Paragraph) -> str:
        """Broken between words."""
        return self._printed(self.cell(paragraph.content))

    def notes(self, notes: doc.Notes) -> str:
        """A line each, then the signature."""
        signature = [f"signature: {notes.signature}"] if notes.signature else []
        return "\n".join(
            self._printed(self.cell(line)) for line in [*self.lines(notes), *signature]
        )

    def block(self, block: doc.Block) -> str:
        """The lines unbroken, to be copied."""
        return visible(block.text)

    def cell(self, cell: doc.Cell, separator: str = " ") -> Text:
        """A cell with its styles; ``separator`` comes before what is small."""
        made = Text()
        for piece in pieces(cell):
            match piece:
                case str():
                    made.append(printable(piece))
                case doc.Code():
                    made.append(printable(piece.text))
                case doc.Strong():
                    made.append(printable(piece.text + piece.mark), style="bold")
                case doc.Small():
                    made.append(separator + printable(piece.text))
                case doc.Note():
                    made.append(f" {self.footnotes.mark(piece.reason)}")
        return made

    def table(self, table: doc.Table) -> str:
        """Whole if its columns have room, else in parts; words are broken where nothing else helps."""
        parts, least = [table], NARROW if table.head else 1
        if not self._fits(table, least):
            for least in (ENDLESS, NARROW):  # rather more parts than words one below another
                parts = split(table, partial(self._fits, least=least))
                if all(self._fits(part, least) for part in parts):
                    break
            else:
                least = 1
        return "\n\n".join(self._printed(self._drawn(part, least) or "") for part in parts)

    def _fits(self, table: doc.Table, least: int) -> bool:
        return self._drawn(table, least) is not None

    def _drawn(self, table: doc.Table, least: int) -> RichTable | None:
        """The table on as few lines as there is room for; None: there is not.

        Args:
            table: the table.
            least: width to which text may be broken between words; 1: everything, anywhere.
        """
        heads = [[Text(name) for name in _names(table)]] if table.head else []
        names = table.keys if table.head and len(table.head) > table.keys else 0
        for narrow in (ENDLESS, least):
            for separator in (" ", "\n"):
                rows = [[self.cell(cell, separator) for cell in row] for row in table.rows]
                columns = list(zip(*heads, *rows, strict=True))
                for floor in (None, "words", "letters"):  # labels take more lines before numbers do
                    floors = [floor if place < names else None for place in range(len(columns))]
                    widths = _widths(columns, table.right, narrow, floors, self.console.width)
                    if widths is not None:
                        return _rich(table, columns, widths)
        return None

    def _printed(self, drawn: RenderableType) -> str:
        with self.console.capture() as captured:
            self.console.print(drawn)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _names(table: doc.Table) -> list[str]:
    """Heads of the columns, the group's name above."""
    pairs = zip(table.groups or [""] * len(table.head), table.head, strict=True)
    return ["\n".join(map(printable, filter(None, pair))) for pair in pairs]


def _widths(
    columns: Sequence[Sequence[Text]],
    right: Sequence[int],
    narrow: int,
    floors: Sequence[str | None],
    room: int,
) -> list[int] | None:
    """Widths of columns that together have no more than ``room``; None: words would break.

    Args:
        columns: the cells of each.
        right: those of numbers, which are not broken.
        narrow: as ``least`` above.
        floors: of columns that name rows, how far they may be broken: between words, or anywhere.
        room: columns of the screen.
    """
    full, widths = [], []
    for place, (column, floor) in enumerate(zip(columns, floors, strict=True)):
        texts = [text.plain for text in column]
        full.append(max(cell_len(line) for text in texts for line in text.split("\n")))
        word = max((cell_len(word) for text in texts for word in text.split()), default=0)
        least = ENDLESS if place in right else max(narrow, word)
        if floor is not None:
            least = min(least, max(LABEL, word) if floor == "words" else LABEL)
        widths.append(min(full[-1], least if narrow > 1 else 1))
    spare = room - GAP * (len(widths) - 1) - sum(widths)
    while spare > 0 and (lacking := [i for i, size in enumerate(full) if widths[i] < size]):
        widths[min(lacking, key=widths.__getitem__)] += 1
        spare -= 1
    return widths if spare >= 0 else None


def _rich(table: doc.Table, columns: Sequence[Sequence[Text]], widths: list[int]) -> RichTable:
    heads = bool(table.head)
    drawn = RichTable(box=None, pad_edge=False, header_style="bold", show_header=heads)
    for place, (column, width) in enumerate(zip(columns, widths, strict=True)):
        head, right = column[0] if heads else "", place in table.right
        drawn.add_column(head, width=width, justify="right" if right else "left", overflow="fold")
    for place, row in enumerate(list(zip(*columns, strict=True))[heads:]):
        drawn.add_row(*row, style="dim" if place < table.references else "")
    return drawn


def for_screen(most: int = ENDLESS) -> Terminal:
    """A writer for the terminal that standard output is, or as wide as ``COLUMNS`` says; else ``most``."""
    colour = sys.stdout.isatty()
    known = colour or "COLUMNS" in os.environ
    width = min(shutil.get_terminal_size().columns, most) if known else most
    return Terminal(width, colour=colour)


def show(document: doc.Document, most: int = ENDLESS) -> None:
    """Prints a document: on a terminal within its width, elsewhere a row a line; at most ``most`` wide."""
    draw(for_screen(most).write(document))
