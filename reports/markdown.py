"""A board as Markdown."""

from kdbench.harness.records import Missing
from kdbench.reports.metrics import info
from kdbench.reports.model import Board, Cell
from kdbench.reports.text import Footnotes, code, footer, interval, number, row_label


def render_markdown(board: Board) -> str:
    """One pipe table a section, footnotes and the signature below it."""
    parts = []
    for table in board.tables:
        footnotes = Footnotes()
        heads = [f"{escape(c.heading)}<br>{escape(info(c.metric).label)}" for c in table.columns]
        lines = [
            f"### {escape(table.title)}",
            "",
            "| " + " | ".join(["method", *heads]) + " |",
            "|:---|" + "---:|" * len(heads),
        ]
        for row, cells in zip(table.rows, table.cells, strict=True):
            label = escape(row_label(row))
            texts = [
                _md_cell(cell, column.metric, footnotes)
                for cell, column in zip(cells, table.columns, strict=True)
            ]
            label = f"*{label}*" if row.reference else label
            lines.append("| " + " | ".join([label, *texts]) + " |")
        lines += ["", *(f"{escape(line)}  " for line in footer(table, footnotes, "text"))]
        parts.append("\n".join([*lines, f"`{code(table.signature)}`"]))
    if board.left_out:
        parts.append("Left out: " + escape("; ".join(board.left_out)))
    return "\n\n".join(parts) + "\n"


def _md_cell(cell: Cell | Missing, metric: str, footnotes: Footnotes) -> str:
    if isinstance(cell, Missing):
        return f"– <sup>{footnotes.mark(cell.missing)}</sup>"
    mean = number(cell.mean, metric)
    note = f" <sup>{footnotes.mark(cell.note)}</sup>" if cell.note else ""
    return f"{f'**{mean}**' if cell.bold else mean} {interval(cell, metric)}{note}"


def escape(text: str) -> str:
    """Text that Markdown shows as it is and never runs."""
    text = " ".join(text.split())
    for character in "\\`*_{}[]<>#|~!":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;")
