"""The walk over a document that every format shares, and how a wide table is cut."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from kdbench.reports.text.document import (
    Block,
    Cell,
    Code,
    Document,
    Note,
    Notes,
    Paragraph,
    Part,
    Picture,
    Piece,
    Sample,
    Small,
    Strong,
    Table,
    pieces,
)
from kdbench.reports.text.style import Footnotes, visible


class Writer(ABC):
    """Writes a document part by part; a format says how each kind of part looks."""

    def __init__(self) -> None:
        self.footnotes = Footnotes()

    def write(self, document: Document) -> str:
        """The whole document."""
        parts = [self.heading(document.title, 1)] if document.title else []
        for section in document.sections:
            parts += [self.heading(section.title, 2)] if section.title else []
            parts += [self.part(part) for part in section.parts]
        parts += [self.notes(Notes())] if self.footnotes.letters else []
        return "\n\n".join(parts) + "\n"

    def part(self, part: Part) -> str:
        """One part, without what separates it from the next."""
        match part:
            case Paragraph():
                return self.paragraph(part)
            case Table():
                return self.table(part)
            case Notes():
                return self.notes(part)
            case Block():
                return self.block(part)
            case Picture():
                return self.picture(part)
            case Sample():
                return self.sample(part)

    def sample(self, sample: Sample) -> str:
        """The prompt, then each answer under its name."""
        parts = [self.heading(sample.title, 3), self.block(Block(sample.prompt))]
        for answer in sample.answers:
            note = f" ({answer.note})" if answer.note else ""
            parts.append(self.paragraph(Paragraph((Strong(answer.who), note))))
            parts.append(self.block(Block(answer.text)))
        return "\n\n".join(parts)

    def note_lines(self, notes: Notes) -> list[Cell]:
        """The lines, then the footnotes that are not explained yet."""
        return [*notes.lines, *self.footnotes.explained()]

    def picture(self, picture: Picture) -> str:
        """Where a format shows no figures, what is in it and where it lies."""
        text = f"{picture.title}: {picture.caption} (figures/{picture.name}.svg)"
        return self.paragraph(Paragraph(text))

    @abstractmethod
    def heading(self, text: str, level: int) -> str:
        """A title: 1 of the document, 2 of a section, 3 of a sample."""

    @abstractmethod
    def paragraph(self, paragraph: Paragraph) -> str:
        """A line of text."""

    @abstractmethod
    def table(self, table: Table) -> str:
        """A table, in several parts if it must be."""

    @abstractmethod
    def notes(self, notes: Notes) -> str:
        """Lines under tables, footnotes and signature."""

    @abstractmethod
    def block(self, block: Block) -> str:
        """Lines as they are."""


class Marked(Writer):
    """A format whose cells are strings with marks in them."""

    def cell(self, cell: Cell) -> str:
        """A cell, escaped and marked."""
        return "".join(map(self.piece, pieces(cell)))

    def piece(self, piece: Piece) -> str:
        """One piece of a cell, escaped and marked."""
        match piece:
            case str():
                return self.plain(piece)
            case Code():
                return self.code(piece.text)
            case Strong():
                return self.strong(self.plain(piece.text))
            case Small():
                return self.small(self.plain(piece.text))
            case Note():
                return self.letter(self.footnotes.mark(piece.reason))

    def plain(self, text: str) -> str:
        """Escaped text on one line; blanks at its ends stay, for pieces touch."""
        words = " ".join(visible(text).split())
        before, after = " " * text[:1].isspace(), " " * text[-1:].isspace()
        return before + self.escape(words) + after if words else before

    @abstractmethod
    def escape(self, text: str) -> str:
        """Text on one line that the format shows as it is."""

    @abstractmethod
    def code(self, text: str) -> str:
        """Text to be read letter by letter."""

    @abstractmethod
    def strong(self, marked: str) -> str:
        """Bold."""

    @abstractmethod
    def small(self, marked: str) -> str:
        """Smaller, behind a number."""

    @abstractmethod
    def letter(self, letter: str) -> str:
        """Of a footnote."""


def select(table: Table, columns: Sequence[int]) -> Table:
    """The table with these columns only."""
    return table._replace(
        head=[table.head[i] for i in columns],
        rows=[[row[i] for i in columns] for row in table.rows],
        right=[place for place, i in enumerate(columns) if i in table.right],
        groups=[table.groups[i] for i in columns] if table.groups else (),
    )


def split(table: Table, fits: Callable[[Table], bool]) -> list[Table]:
    """The table in parts that fit: cut between groups where it can be, else between columns.

    Args:
        table: the table; its key columns come again in each part.
        fits: whether a part is small enough.
    """
    keys = list(range(table.keys))
    units: list[list[int]] = []
    for i in range(table.keys, len(table.head)):
        group = table.groups[i] if table.groups else ""
        if group and units and table.groups[units[-1][0]] == group:
            units[-1].append(i)
        else:
            units.append([i])
    parts: list[list[int]] = []
    for unit in units:
        pieces = [unit] if fits(select(table, keys + unit)) else [[i] for i in unit]
        for piece in pieces:
            if parts and fits(select(table, keys + parts[-1] + piece)):
                parts[-1] = parts[-1] + piece
            else:
                parts.append(piece)
    return [select(table, keys + part) for part in parts] or [table]
