"""A board as Markdown."""

from collections.abc import Sequence

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.model import Board, Cell, Table
from kdbench.reports.text import Footnotes, blocks, code, footer, interval, number, row_label


def render_markdown(board: Board) -> str:
    """A pipe table for the scores, judges and probes of a section; notes and signature below."""
    parts = []
    for table in board.tables:
        footnotes = Footnotes()
        lines = [f"### {escape(table.title)}", ""]
        for block in blocks(table):
            lines += [*_pipes(table, block, footnotes), ""]
        lines += [f"{escape(line)}  " for line in footer(table, footnotes, "text")]
        parts.append("\n".join([*lines, f"`{code(table.signature)}`"]))
    if board.left_out:
        parts.append("Left out: " + escape("; ".join(board.left_out)))
    return "\n\n".join(parts) + "\n"


def _pipes(table: Table, block: Sequence[int], footnotes: Footnotes) -> list[str]:
    columns = [table.columns[i] for i in block]
    heads = [f"{escape(c.heading)}<br>{escape(info(c.metric).label)}" for c in columns]
    lines = ["| " + " | ".join(["method", *heads]) + " |", "|:---|" + "---:|" * len(heads)]
    for row, cells in zip(table.rows, table.cells, strict=True):
        label = escape(row_label(row))
        label = f"*{label}*" if row.reference else label
        texts = [_md_cell(cells[i], table.columns[i].metric, footnotes) for i in block]
        lines.append("| " + " | ".join([label, *texts]) + " |")
    return lines


def _md_cell(cell: Cell | Missing, metric: str, footnotes: Footnotes) -> str:
    if isinstance(cell, Missing):
        return f"– <sup>{footnotes.mark(cell.missing)}</sup>"
    mean = number(cell.mean, metric)
    note = f" <sup>{footnotes.mark(cell.note)}</sup>" if cell.note else ""
    return f"{f'**{mean}**' if cell.bold else mean} {interval(cell, metric)}".rstrip() + note


def escape(text: str) -> str:
    """Text that Markdown shows as it is and never runs."""
    text = " ".join(text.split())
    for character in "\\`*_{}[]<>#|~!":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;")
