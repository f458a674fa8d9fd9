"""A document as data: whoever builds one never escapes, whoever writes one always does.

Text of models and users may stand anywhere in it. The writers are `kdbench.reports.text.formats`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Code(NamedTuple):
    """Text to be read letter by letter."""

    text: str


class Strong(NamedTuple):
    """Text set bold; ``mark`` stands behind it where bold cannot be seen (a terminal)."""

    text: str
    mark: str = ""


class Small(NamedTuple):
    """What stands smaller behind a number, as its interval; on a line of its own where room is scarce."""

    text: str


class Note(NamedTuple):
    """The letter of a footnote; equal reasons share one."""

    reason: str


Piece = str | Code | Strong | Small | Note
Cell = Piece | tuple[Piece, ...]


class Paragraph(NamedTuple):
    """A line of text; a note is set smaller."""

    content: Cell
    note: bool = False


class Table(NamedTuple):
    """Rows under a head; without a head, names and what they stand for."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: Sequence[int] = ()
    """Columns of numbers."""
    groups: Sequence[str] = ()
    """What neighbouring columns have in common, one a column; empty: nothing."""
    references: int = 0
    """So many of the first rows are there to compare with."""
    keys: int = 1
    """So many of the first columns name the row: they come again in each part of a table that is cut."""
    caption: str = ""
    """What stands above a table that is printed on its own, as in a paper; only LaTeX makes such tables."""


class Notes(NamedTuple):
    """Lines under tables; footnotes since the last ones are explained behind them."""

    lines: Sequence[Cell] = ()
    signature: str = ""


class Block(NamedTuple):
    """Lines as they are: a command, a configuration."""

    text: str
    language: str = ""


class Picture(NamedTuple):
    """A figure whose files are ``figures/<name>.svg``, ``.png`` and ``.csv``."""

    name: str
    title: str
    caption: str


class Answer(NamedTuple):
    """One model's answer to a prompt; ``note`` says its score or why it is cut."""

    who: str
    text: str
    note: str = ""


class Sample(NamedTuple):
    """A prompt and what was answered, side by side; the references come first."""

    title: str
    prompt: str
    answers: Sequence[Answer]


Part = Paragraph | Table | Notes | Block | Picture | Sample


class Section(NamedTuple):
    """Parts under a heading, if it has one."""

    title: str
    parts: Sequence[Part]


class Document(NamedTuple):
    """Sections under a title, if it has one."""

    title: str
    sections: Sequence[Section]
    rows: Sequence[Mapping[str, object]] = ()
    """The same as plain values, for CSV and data frames."""
