"""A board as a document."""

from collections.abc import Iterator, Mapping, Sequence

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.board_types import Board, Cell, Row, Table
from kdbench.reports.text import document as text
from kdbench.reports.text.document import Document, Notes, Paragraph, Section, Strong
from kdbench.reports.text.style import value_cell

WHOSE = {"kind", "method", "variant", "regime", "division", "training_seeds", "runs"}
VALUES = ("mean", "low", "high", "n_prompts", "n_runs", "decoding_seeds", "bold")
"""Fields of a row and of a cell that data frames have."""


def board_document(board: Board, *, headline: bool = False) -> Document:
    """A section for each suite and pair of models; references first, then the best first.

    Args:
        board: the board.
        headline: main metrics only, unless a table has none.
    """
    sections = [_section(table, headline) for table in board.tables]
    if board.left_out:
        sections.append(Section("", [Paragraph("left out: " + "; ".join(board.left_out))]))
    return Document("", sections, [row for table in board.tables for row in _rows(table)])


def row_label(row: Row) -> str:
    """The row's name, with the number of training seeds if there are several."""
    several = len(row.training_seeds) > 1
    return f"{row.label} ×{len(row.training_seeds)}" if several else row.label


def any_bold(table: Table) -> bool:
    """Whether any method is significantly ahead in any column."""
    return any(isinstance(cell, Cell) and cell.bold for row in table.cells for cell in row)


def _section(table: Table, headline: bool) -> Section:
    order = _order(table)
    drawn = [_table(table, block, order) for block in _blocks(table, headline)]
    bold: text.Cell = "[95% interval]"
    if any_bold(table):
        bold = (Strong("best", "*"), ", or not significantly worse than the best; [95% interval]")
    elif any(table.pairs):
        bold = "[95% interval]; no method is significantly ahead"
    notes = Notes([bold, *table.notes, *_open_rows(table)], table.signature)
    return Section(table.title, [*drawn, notes])


def _table(table: Table, block: Sequence[int], order: Sequence[int]) -> text.Table:
    columns = [table.columns[i] for i in block]
    rows = [
        [
            row_label(table.rows[at]),
            *(_cell(table.cells[at][i], table.columns[i].metric) for i in block),
        ]
        for at in order
    ]
    return text.Table(
        ["method", *(info(column.metric).label for column in columns)],
        rows,
        right=range(1, len(block) + 1),
        groups=["", *(column.heading for column in columns)],
        references=sum(row.reference for row in table.rows),
    )


def _cell(cell: Cell | Missing, metric: str) -> text.Cell:
    if isinstance(cell, Missing):
        return value_cell(cell, metric)
    return value_cell(cell, metric, bold=cell.bold, note=cell.note)


def _order(table: Table) -> list[int]:
    """References as they come, then methods by the first main metric, the best first."""
    known = [info(column.metric) for column in table.columns]
    main = next((i for i, k in enumerate(known) if k.headline and k.better), None)

    def place(at: int) -> tuple[bool, bool, float]:
        method = not table.rows[at].reference
        cell = table.cells[at][main] if method and main is not None else None
        value = (
            -info(table.columns[main].metric).better * cell.mean if isinstance(cell, Cell) else 0.0
        )
        return (method, not isinstance(cell, Cell), value)

    return sorted(range(len(table.rows)), key=place)


def _blocks(table: Table, headline: bool) -> list[list[int]]:
    """Columns that are drawn together, by index: main scores, other scores, judges, probes."""
    known = [info(column.metric) for column in table.columns]
    shown = [i for i, k in enumerate(known) if k.headline or not headline] or list(
        range(len(known))
    )
    kinds = [(known[i].kind, known[i].kind == "score" and known[i].headline) for i in shown]
    order = (("score", True), ("score", False), ("judge", False), ("probe", False))
    blocks = [
        [i for i, kind in zip(shown, kinds, strict=True) if kind == wanted] for wanted in order
    ]
    return [block for block in blocks if block] or [[]]


def _open_rows(table: Table) -> list[str]:
    """Which rows are in the open division, and the comparison rules they break."""
    labels: dict[str, list[str]] = {}
    for row in table.rows:
        if row.broken:
            label = row.label.replace(" (open)", "")
            labels.setdefault(", ".join(row.broken), []).append(label)
    return [f"open: {', '.join(rows)} (breaks {rules})" for rules, rows in labels.items()]


def _rows(table: Table) -> Iterator[Mapping[str, object]]:
    """One row a cell; reasons, signature and notes included."""
    pair = {"suite": table.suite, "teacher": table.teacher, "student": table.student}
    below = {"signature": table.signature, "notes": "; ".join(table.notes)}
    for row, cells in zip(table.rows, table.cells, strict=True):
        whose = pair | {"row": row.label} | row.model_dump(include=WHOSE)
        for column, cell in zip(table.columns, cells, strict=True):
            found = cell.model_dump() if isinstance(cell, Cell) else {}
            yield (
                whose
                | {"task": column.task, "edition": column.edition, "protocol": column.protocol}
                | {"evaluation": column.identity, "metric": column.metric}
                | {name: found.get(name) for name in VALUES}
                | {"reason": cell.missing if isinstance(cell, Missing) else cell.note}
                | below
            )
