"""A board as LaTeX (booktabs)."""

from collections.abc import Sequence

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.model import Board, Cell, Column, Table
from kdbench.reports.text import Footnotes, blocks, code, footer, interval, number, row_label

MOST = 6
"""Columns a tabular, as many as a page in landscape holds; a table with more becomes several."""


def render_latex(board: Board) -> str:
    """One tabular for the scores, judges and probes of a section; booktabs is all it needs."""
    parts = []
    for table in board.tables:
        footnotes = Footnotes()
        lines = [f"% {code(table.title)}"]
        for block in blocks(table, MOST):
            lines += [*_tabular(table, block, footnotes), ""]
        below = [*footer(table, footnotes, "text"), f"Signature: {table.signature}"]
        lines.append("\\par{\\footnotesize " + " \\\\ ".join(map(tex, below)) + "\\par}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _tabular(table: Table, block: Sequence[int], footnotes: Footnotes) -> list[str]:
    columns = [table.columns[i] for i in block]
    spans = _spans(columns)
    rules, start = [], 2
    for _, size in spans:
        rules.append(f"\\cmidrule(lr){{{start}-{start + size - 1}}}")
        start += size
    heads = [f"\\multicolumn{{{size}}}{{c}}{{{tex(head)}}}" for head, size in spans]
    labels = [tex(info(column.metric).label) for column in columns]
    return [
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join(["", *heads]) + " \\\\",
        " ".join(rules),
        " & ".join(["Method", *labels]) + " \\\\",
        "\\midrule",
        *_latex_rows(table, block, footnotes),
        "\\bottomrule",
        "\\end{tabular}",
    ]


def _latex_rows(table: Table, block: Sequence[int], footnotes: Footnotes) -> list[str]:
    lines = []
    for index, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if index and table.rows[index - 1].reference and not row.reference:
            lines.append("\\midrule")
        texts = [_latex_cell(cells[i], table.columns[i].metric, footnotes) for i in block]
        lines.append(" & ".join([tex(row_label(row)), *texts]) + " \\\\")
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
    "−": "$-$",
    "α": "$\\alpha$",
    "β": "$\\beta$",
    "‖": "$\\Vert$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": "\\ldots{}",
    "·": "$\\cdot$",
    "∞": "$\\infty$",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "[": "{[}",
    "]": "{]}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def tex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return "".join(map(_character, " ".join(text.split())))


def _character(character: str) -> str:
    """What pdflatex knows without further packages; any other character by its number."""
    known = _TEX.get(character)
    if known is None:
        plain = " " <= character <= "~" or ("À" <= character <= "ÿ" and character not in "ÐÞðþ×÷")
        known = character if plain else f"{{\\ttfamily U+{ord(character):04X}}}"
    return known
