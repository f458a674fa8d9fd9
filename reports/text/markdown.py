"""Markdown: tables and fences of GitHub's dialect."""

import re

from kdbench.harness.printing import one_line, visible
from kdbench.reports.text import document as doc
from kdbench.reports.text.writer import Marked, pieces


class Markdown(Marked):
    """Writes Markdown in which no text is markup."""

    def __init__(self) -> None:
        marks = {
            doc.Code: "`%s`",
            doc.Strong: "**%s**",
            doc.Small: " %s",
            doc.Note: " <sup>%s</sup>",
        }
        super().__init__(escape, marks)

    def heading(self, text: str, level: int) -> str:
        """With so many ``#``."""
        return f"{'#' * level} {self.plain(text)}"

    def paragraph(self, paragraph: doc.Paragraph) -> str:
        """A line of text."""
        return self._line(paragraph.content)

    def _line(self, cell: doc.Cell) -> str:
        """A line that is no item of a list."""
        return re.sub(r"^(\d*)([-+.)])(?= )", r"\1\\\2", self.cell(cell))

    def table(self, table: doc.Table) -> str:
        """A pipe table; a group stands above the name of each of its columns."""
        columns = range(len(table.head) or max((len(row) for row in table.rows), default=0))
        heads = [self.plain(name) for name in table.head] or [""] * len(columns)
        if table.groups:
            groups = [f"{self.plain(group)}<br>" if group else "" for group in table.groups]
            heads = [group + head for group, head in zip(groups, heads, strict=True)]
        rule = "".join("---:|" if place in table.right else ":---|" for place in columns)
        lines = [f"| {' | '.join(heads)} |", f"|{rule}"]
        for place, row in enumerate(table.rows):
            cells = ["".join(map(self._in_table, pieces(cell))) for cell in row]
            cells[0] = f"*{cells[0]}*" if place < table.references else cells[0]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _in_table(self, piece: doc.Piece) -> str:
        text = self.piece(piece)
        return text.replace("|", "\\|") if isinstance(piece, doc.Code) else text

    def notes(self, notes: doc.Notes) -> str:
        """Lines with a break after each, the signature as code."""
        signature = [doc.Code(notes.signature)] if notes.signature else []
        return "  \n".join(map(self._line, [*self.lines(notes), *signature]))

    def block(self, block: doc.Block) -> str:
        """A fenced block that its content cannot close."""
        fence = "```"
        while fence in block.text:
            fence += "`"
        return f"{fence}{block.language}\n{visible(block.text)}\n{fence}"

    def picture(self, picture: doc.Picture) -> str:
        """The picture with links to its other files."""
        stem, caption = f"figures/{picture.name}", self.plain(picture.caption)
        links = f"[PNG]({stem}.png), [numbers]({stem}.csv)"
        return f"![{self.plain(picture.title)}]({stem}.svg)\n\n{caption} ({links})"

    def code(self, text: str) -> str:
        """What a code span shows as it is."""
        return one_line(text) or "none"


def escape(text: str) -> str:
    """Text that Markdown shows as it is and never runs, on one line."""
    shown = re.sub(r"[\\`*_{}\[\]<>#|~!]", r"\\\g<0>", " ".join(text.split()))
    return shown.replace("&", "&amp;")
