"""A board as LaTeX (booktabs)."""

from collections.abc import Sequence

from kdbench.harness.records import Missing
from kdbench.reports.metrics import info
from kdbench.reports.model import Board, Cell, Column, Table
from kdbench.reports.text import Footnotes, code, footer, interval, number, row_label


def render_latex(board: Board) -> str:
    """One tabular a section; the booktabs package is all it needs."""
    parts = []
    for table in board.tables:
        footnotes = Footnotes()
        spans = _spans(table.columns)
        rules, start = [], 2
        for _, size in spans:
            rules.append(f"\\cmidrule(lr){{{start}-{start + size - 1}}}")
            start += size
        heads = [f"\\multicolumn{{{size}}}{{c}}{{{_tex(head)}}}" for head, size in spans]
        labels = [_tex(info(column.metric).label) for column in table.columns]
        lines = [
            f"% {code(table.title)}",
            f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            "\\toprule",
            " & ".join(["", *heads]) + " \\\\",
            " ".join(rules),
            " & ".join(["Method", *labels]) + " \\\\",
            "\\midrule",
        ]
        lines += _latex_rows(table, footnotes)
        lines += ["\\bottomrule", "\\end{tabular}"]
        below = [*footer(table, footnotes, "text"), f"Signature: {table.signature}"]
        lines.append("\\par{\\footnotesize " + " \\\\ ".join(map(_tex, below)) + "\\par}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_rows(table: Table, footnotes: Footnotes) -> list[str]:
    lines = []
    for index, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if index and table.rows[index - 1].reference and not row.reference:
            lines.append("\\midrule")
        texts = [
            _latex_cell(cell, column.metric, footnotes)
            for cell, column in zip(cells, table.columns, strict=True)
        ]
        lines.append(" & ".join([_tex(row_label(row)), *texts]) + " \\\\")
    return lines


def _latex_cell(cell: Cell | Missing, metric: str, footnotes: Footnotes) -> str:
    if isinstance(cell, Missing):
        return f"--\\textsuperscript{{{footnotes.mark(cell.missing)}}}"
    mean = number(cell.mean, metric)
    note = f"\\textsuperscript{{{footnotes.mark(cell.note)}}}" if cell.note else ""
    mean = f"\\textbf{{{mean}}}" if cell.bold else mean
    return f"{mean}{note} {{\\scriptsize {interval(cell, metric)}}}"


def _spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    spans: list[tuple[str, int]] = []
    for column in columns:
        if spans and spans[-1][0] == column.heading:
            spans[-1] = (column.heading, spans[-1][1] + 1)
        else:
            spans.append((column.heading, 1))
    return spans


_TEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "→": "$\\rightarrow$",
    "×": "$\\times$",
    "–": "--",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "[": "{[}",
    "]": "{]}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))
