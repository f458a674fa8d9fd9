"""A document as data, and as Markdown: whoever builds one never escapes, whoever renders always does.

Text of models and users may stand anywhere in a document. In Markdown it is escaped or fenced; the
HTML renderer is `kdbench.reports.document_page`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kdbench.reports.markdown import escape
from kdbench.reports.printable import printable
from kdbench.reports.text import code


class Code(NamedTuple):
    """Text to be read letter by letter."""

    text: str


Piece = str | Code
Cell = Piece | tuple[Piece, ...]


class Paragraph(NamedTuple):
    """A line of text; a note is set smaller."""

    content: Cell
    note: bool = False


class Table(NamedTuple):
    """Rows under a head; ``right`` are the columns of numbers. An empty head is not drawn."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: tuple[int, ...] = ()


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


Part = Paragraph | Table | Block | Picture | Sample


class Section(NamedTuple):
    """Parts under a heading."""

    title: str
    parts: Sequence[Part]


class Document(NamedTuple):
    """A title and sections."""

    title: str
    sections: Sequence[Section]


def visible(text: str) -> str:
    """The text with every invisible character but line ends and tabs written as an escape."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines)


def render_markdown(document: Document) -> str:
    """The document as Markdown; tables and fences of GitHub's dialect."""
    parts = [f"# {escape(visible(document.title))}"]
    for section in document.sections:
        parts.append(f"## {escape(visible(section.title))}")
        parts += [_part(part) for part in section.parts]
    return "\n\n".join(parts) + "\n"


def _part(part: Part) -> str:
    match part:
        case Paragraph():
            return _cell(part.content)
        case Table():
            return _table(part)
        case Block():
            return fenced(part.text, part.language)
        case Picture():
            stem = f"figures/{part.name}"
            links = f"[PNG]({stem}.png), [numbers]({stem}.csv)"
            caption = escape(part.caption)
            return f"![{escape(part.title)}]({stem}.svg)\n\n{caption} ({links})"
        case Sample():
            return _sample(part)


def _sample(sample: Sample) -> str:
    lines = [f"### {escape(visible(sample.title))}", fenced(sample.prompt)]
    for answer in sample.answers:
        note = f" ({escape(visible(answer.note))})" if answer.note else ""
        lines += [f"**{escape(visible(answer.who))}**{note}", fenced(answer.text)]
    return "\n\n".join(lines)


def _table(table: Table) -> str:
    columns = len(table.head) or max(len(row) for row in table.rows)
    head = [escape(visible(name)) for name in table.head] or [""] * columns
    rule = "".join("---:|" if place in table.right else ":---|" for place in range(columns))
    rows = [" | ".join(_cell(cell, in_table=True) for cell in row) for row in table.rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}", *(f"| {row} |" for row in rows)])


def _cell(cell: Cell, *, in_table: bool = False) -> str:
    pieces = (cell,) if isinstance(cell, str | Code) else cell
    return "".join(_piece(piece, in_table) for piece in pieces)


def _piece(piece: Piece, in_table: bool) -> str:
    if isinstance(piece, str):
        shown = visible(piece)
        before = " " if shown[:1].isspace() else ""  # escaping trims, but pieces touch
        after = " " if shown.strip() and shown[-1:].isspace() else ""
        return before + escape(shown) + after
    text = code(visible(piece.text)) or "none"
    return f"`{text.replace('|', chr(92) + '|') if in_table else text}`"


def fenced(text: str, language: str = "") -> str:
    """A fenced block that its content cannot close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{visible(text)}\n{fence}"
