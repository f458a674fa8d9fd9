"""The walk over a document that every format shares, and how a wide table is cut."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from kdbench.harness.printing import visible
from kdbench.reports.text import document as doc
from kdbench.reports.text.style import Footnotes


def pieces(cell: doc.Cell) -> tuple[doc.Piece, ...]:
    """What a cell consists of."""
    return (cell,) if isinstance(cell, doc.Piece) else cell


def plain(cell: doc.Cell) -> str:
    """The words of a cell, without style and footnotes."""
    parts = (piece for piece in pieces(cell) if not isinstance(piece, doc.Note))
    return "".join(piece if isinstance(piece, str) else piece.text for piece in parts)


class Writer(ABC):
    """Writes a document part by part; a format says how each kind of part looks."""

    def __init__(self) -> None:
        self.footnotes = Footnotes()

    def write(self, document: doc.Document) -> str:
        """The whole document."""
        parts = [self.heading(document.title, 1)] if document.title else []
        for section in document.sections:
            parts += [self.heading(section.title, 2)] if section.title else []
            parts += [self.part(part) for part in section.parts]
        parts += [self.notes(doc.Notes())] if self.footnotes.letters else []
        return "\n\n".join(parts) + "\n"

    def part(self, part: doc.Part) -> str:
        """One part, without what separates it from the next."""
        match part:
            case doc.Paragraph():
                return self.paragraph(part)
            case doc.Table():
                return self.table(part)
            case doc.Notes():
                return self.notes(part)
            case doc.Block():
                return self.block(part)
            case doc.Picture():
                return self.picture(part)
            case doc.Sample():
                return self.sample(part)

    def sample(self, sample: doc.Sample) -> str:
        """The prompt, then each answer under its name."""
        parts = [self.heading(sample.title, 3), self.block(doc.Block(sample.prompt))]
        for who, text, note in sample.answers:
            name = (doc.Strong(who), f" ({note})" if note else "")
            parts += [self.paragraph(doc.Paragraph(name)), self.block(doc.Block(text))]
        return "\n\n".join(parts)

    def picture(self, picture: doc.Picture) -> str:
        """Where a format shows no figures, what is in it and where it lies."""
        text = f"{picture.title}: {picture.caption} (figures/{picture.name}.svg)"
        return self.paragraph(doc.Paragraph(text))

    def lines(self, notes: doc.Notes) -> list[doc.Cell]:
        """The lines of notes, then the footnotes that are not explained yet."""
        return [*notes.lines, *self.footnotes.explained()]

    @abstractmethod
    def heading(self, text: str, level: int) -> str:
        """A title: 1 of the document, 2 of a section, 3 of a sample."""

    @abstractmethod
    def paragraph(self, paragraph: doc.Paragraph) -> str:
        """A line of text."""

    @abstractmethod
    def table(self, table: doc.Table) -> str:
        """A table, in several parts if it must be."""

    @abstractmethod
    def notes(self, notes: doc.Notes) -> str:
        """Lines under tables, footnotes and signature."""

    @abstractmethod
    def block(self, block: doc.Block) -> str:
        """Lines as they are."""


class Marked(Writer):
    """A format whose cells are strings with marks in them.

    Args:
        escape: makes text on one line such that the format shows it as it is.
        marks: a pattern for each kind of piece.
    """

    def __init__(self, escape: Callable[[str], str], marks: Mapping[type, str]) -> None:
        super().__init__()
        self._escape, self._marks = escape, marks

    def cell(self, cell: doc.Cell) -> str:
        """A cell, escaped and marked."""
        return "".join(map(self.piece, pieces(cell)))

    def piece(self, piece: doc.Piece) -> str:
        """One piece of a cell, escaped and marked."""
        if isinstance(piece, str):
            return self.plain(piece)
        text = self.footnotes.mark(piece.reason) if isinstance(piece, doc.Note) else piece.text
        shown = self.code(text) if isinstance(piece, doc.Code) else self.plain(text)
        return self._marks[type(piece)] % shown

    def code(self, text: str) -> str:
        """Text to be read letter by letter, before it is marked."""
        return self.plain(text)

    def plain(self, text: str) -> str:
        """Escaped text on one line; blanks at its ends stay, for pieces touch."""
        words = " ".join(visible(text).split())
        before, after = " " * text[:1].isspace(), " " * text[-1:].isspace()
        return before + self._escape(words) + after if words else before


def select(table: doc.Table, columns: Sequence[int]) -> doc.Table:
    """The table with these columns only."""
    return table._replace(
        head=[table.head[i] for i in columns],
        rows=[[row[i] for i in columns] for row in table.rows],
        right=[place for place, i in enumerate(columns) if i in table.right],
        groups=[table.groups[i] for i in columns] if table.groups else (),
    )


def split(table: doc.Table, fits: Callable[[doc.Table], bool]) -> list[doc.Table]:
    """The table in parts that fit: cut between groups where it can be, else between columns.

    Args:
        table: the table; its key columns come again in each part.
        fits: whether a part is small enough.
    """
    keys = list(range(table.keys))
    parts: list[list[int]] = []
    columns = range(table.keys, len(table.head))
    for _, members in groupby(columns, lambda i: table.groups[i] if table.groups else i):
        group = list(members)
        for piece in [group] if fits(select(table, keys + group)) else [[i] for i in group]:
            if parts and fits(select(table, keys + parts[-1] + piece)):
                parts[-1] += piece
            else:
                parts.append(piece)
    return [select(table, keys + part) for part in parts] or [table]
