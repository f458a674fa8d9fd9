"""Markdown: tables and fences of GitHub's dialect."""

import re

from kdbench.reports.text.document import (
    Block,
    Code,
    Notes,
    Paragraph,
    Picture,
    Piece,
    Table,
    pieces,
)
from kdbench.reports.text.style import one_line, visible
from kdbench.reports.text.writer import Marked


class Markdown(Marked):
    """Writes Markdown in which no text is markup."""

    def heading(self, text: str, level: int) -> str:
        """With so many ``#``."""
        return f"{'#' * level} {self.plain(text)}"

    def paragraph(self, paragraph: Paragraph) -> str:
        """A line that is no list."""
        return re.sub(r"^([-+]|\d+[.)])(?= )", r"\\\1", self.cell(paragraph.content))

    def table(self, table: Table) -> str:
        """A pipe table; a group stands above the name of each of its columns."""
        columns = len(table.head) or max((len(row) for row in table.rows), default=0)
        heads = [self.plain(name) for name in table.head] or [""] * columns
        groups = [self.plain(name) for name in table.groups] or [""] * columns
        heads = [
            f"{group}<br>{head}" if group else head
            for group, head in zip(groups, heads, strict=True)
        ]
        rule = "".join("---:|" if place in table.right else ":---|" for place in range(columns))
        lines = [f"| {' | '.join(heads)} |", f"|{rule}"]
        for place, row in enumerate(table.rows):
            cells = ["".join(map(self._in_table, pieces(cell))) for cell in row]
            if place < table.references:
                cells[0] = f"*{cells[0]}*"
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _in_table(self, piece: Piece) -> str:
        text = self.piece(piece)
        return text.replace("|", "\\|") if isinstance(piece, Code) else text

    def notes(self, notes: Notes) -> str:
        """Lines with a break after each, the signature as code."""
        lines = [f"{self.cell(line)}  " for line in self.note_lines(notes)]
        lines += [self.code(notes.signature)] if notes.signature else []
        return "\n".join(lines).rstrip()

    def block(self, block: Block) -> str:
        """A fenced block that its content cannot close."""
        fence = "```"
        while fence in block.text:
            fence += "`"
        return f"{fence}{block.language}\n{visible(block.text)}\n{fence}"

    def picture(self, picture: Picture) -> str:
        """The picture with links to its other files."""
        stem = f"figures/{picture.name}"
        links = f"[PNG]({stem}.png), [numbers]({stem}.csv)"
        caption = self.plain(picture.caption)
        return f"![{self.plain(picture.title)}]({stem}.svg)\n\n{caption} ({links})"

    def escape(self, text: str) -> str:
        """See `escape`."""
        return escape(text)

    def code(self, text: str) -> str:
        """A code span."""
        return f"`{one_line(text) or 'none'}`"

    def strong(self, marked: str) -> str:
        """Between two stars."""
        return f"**{marked}**"

    def small(self, marked: str) -> str:
        """Just behind."""
        return f" {marked}"

    def letter(self, letter: str) -> str:
        """Raised."""
        return f" <sup>{letter}</sup>"


def escape(text: str) -> str:
    """Text that Markdown shows as it is and never runs."""
    text = " ".join(text.split())
    for character in "\\`*_{}[]<>#|~!":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;")
