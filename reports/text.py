"""What the text renderers share: numbers, footnotes, legend."""

import string

from kdbench.harness.metrics import info
from kdbench.reports.model import Cell, Row, Table

LEGEND = {
    "terminal": "* best, or not significantly worse than the best; [95% interval]",
    "text": "bold: best, or not significantly worse than the best; [95% interval]",
}


def number(value: float, metric: str) -> str:
    """A value with the metric's digits; no negative zero."""
    digits = info(metric).digits
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval(cell: Cell, metric: str) -> str:
    """``[low, high]``; nothing where no interval was measured."""
    if cell.low is None or cell.high is None:
        return ""
    return f"[{number(cell.low, metric)}, {number(cell.high, metric)}]"


class Footnotes:
    """Letters for the reasons of empty and partial cells, in order of appearance."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def index(self, reason: str) -> int:
        """The place of a reason; equal reasons share one."""
        self.mark(reason)
        return list(self.letters).index(reason)

    def mark(self, reason: str) -> str:
        """The letter of a reason; equal reasons share one."""
        if reason not in self.letters:
            index, letters = len(self.letters), string.ascii_lowercase
            prefix = letters[index // 26 - 1] if index >= 26 else ""
            self.letters[reason] = prefix + letters[index % 26]
        return self.letters[reason]


def blocks(table: Table, most: int | None = None) -> list[list[int]]:
    """Columns that are drawn together, by index: main scores, other scores, judges, probes.

    Args:
        table: the table.
        most: columns a block; a block that has more is cut between tasks where it can be.
    """
    made: list[list[int]] = []
    known = [info(column.metric) for column in table.columns]
    for kind, main in (("score", True), ("score", False), ("judge", None), ("probe", None)):
        block: list[int] = []
        members = [i for i, k in enumerate(known) if k.kind == kind and main in (None, k.headline)]
        for heading in dict.fromkeys(table.columns[i].heading for i in members):
            group = [i for i in members if table.columns[i].heading == heading]
            if most and block and len(block) + len(group) > most:
                made.append(block)
                block = []
            block += group
            while most and len(block) > most:
                made.append(block[:most])
                block = block[most:]
        made += [block] if block else []
    return made or [[]]


def footer(table: Table, footnotes: Footnotes, kind: str) -> list[str]:
    """Lines under a table, the signature apart. ``kind``: a key of ``LEGEND``."""
    bold = any(isinstance(c, Cell) and c.bold for row in table.cells for c in row)
    lines = [LEGEND[kind] if bold else "[95% interval]; no method is significantly ahead"]
    if not any(table.pairs):
        lines = ["[95% interval]"]
    lines += [f"{letter}: {reason}" for reason, letter in footnotes.letters.items()]
    return lines + table.notes + open_rows(table)


def open_rows(table: Table) -> list[str]:
    """Which rows are in the open division, and the comparison rules they break."""
    labels: dict[str, list[str]] = {}
    for row in table.rows:
        if row.broken:
            label = row.label.replace(" (open)", "")
            labels.setdefault(", ".join(row.broken), []).append(label)
    return [f"open: {', '.join(rows)} (breaks {rules})" for rules, rows in labels.items()]


def row_label(row: Row) -> str:
    """The row's name, with the number of training seeds if there are several."""
    several = len(row.training_seeds) > 1
    return f"{row.label} ×{len(row.training_seeds)}" if several else row.label


def code(text: str) -> str:
    """Text on one line, safe inside a code span or a comment."""
    return " ".join(text.replace("`", "'").split())
