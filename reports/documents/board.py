"""A board as a document."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.columns import Cell, Column
from kdbench.reports.documents.headline import headline_parts, headline_rows
from kdbench.reports.runs import grouped
from kdbench.reports.text import document as doc
from kdbench.reports.text.style import value_cell

if TYPE_CHECKING:
    from kdbench.reports.board import Board, Table

BLOCKS = (("score", True), ("score", False), ("judge", False), ("probe", False))
"""Kind of a metric, and whether it is a main score, in the order of the tables."""
WHOSE = {"kind", "method", "variant", "regime", "tuning", "division", "training_seeds", "runs"}
VALUES = ("mean", "low", "high", "n_prompts", "n_runs", "decoding_seeds", "bold")
"""Fields of a row and of a cell that data frames have."""


def board_document(board: "Board", *, headline: bool = False) -> doc.Document:
    """A section for each suite and pair of models; references first, then the best first.

    Args:
        board: the board.
        headline: main metrics only, unless a table has none.
    """
    sections = [doc.Section(each.title, headline_parts(each)) for each in board.overall]
    sections += [_section(table, headline) for table in board.tables]
    if board.left_out:
        sections.append(doc.Section("", [doc.Paragraph("left out: " + "; ".join(board.left_out))]))
    return doc.Document("", sections, [row for table in board.tables for row in _rows(table)])


def label(name: str, training_seeds: Sequence[int]) -> str:
    """A row's name, with the number of training seeds if there are several."""
    return f"{name} ×{len(training_seeds)}" if len(training_seeds) > 1 else name


def value(cell: Cell | Missing, metric: str) -> doc.Cell:
    """A value of a board as a cell of a document."""
    if isinstance(cell, Missing):
        return value_cell(cell, metric)
    return value_cell(cell, metric, bold=cell.bold, note=cell.note)


def reason(cell: Cell | Missing) -> str:
    """Why a value is not there, or what is to be known of it."""
    return cell.missing if isinstance(cell, Missing) else cell.note


def shown(columns: Sequence[Column], *, headline: bool) -> list[int]:
    """Which columns are shown: all, or those of main metrics, unless there is none."""
    main = [i for i, column in enumerate(columns) if info(column.metric).headline]
    return main if headline and main else list(range(len(columns)))


def any_bold(table: "Table") -> bool:
    """Whether any column can tell a method from the best."""
    return any(isinstance(cell, Cell) and cell.bold for row in table.cells for cell in row)


def _section(table: "Table", headline: bool) -> doc.Section:
    order = _order(table)
    drawn = [_table(table, block, order) for block in _blocks(table, headline)]
    bold: doc.Cell = "[95% interval]"
    if any_bold(table):
        bold = (doc.Strong("bold", "*"), ": may be the best of its column; [95% interval]")
    notes = doc.Notes([bold, *_tuning(table), *table.notes, *_open_rows(table)], table.signature)
    first = headline_parts(table.headline) if table.headline else []
    return doc.Section(table.title, [*first, *drawn, notes])


def _table(table: "Table", block: Sequence[int], order: Sequence[int]) -> doc.Table:
    columns = [table.columns[i] for i in block]
    rows: list[list[doc.Cell]] = [
        [
            label(row.label, row.training_seeds),
            *(value(cells[i], table.columns[i].metric) for i in block),
        ]
        for row, cells in ((table.rows[at], table.cells[at]) for at in order)
    ]
    return doc.Table(
        ["method", *(info(column.metric).label for column in columns)],
        rows,
        right=range(1, len(block) + 1),
        groups=["", *(column.heading for column in columns)],
        references=sum(row.reference for row in table.rows),
    )


def _order(table: "Table") -> list[int]:
    """References as they come, then methods by the first main metric, the best first."""
    known = [(i, info(column.metric)) for i, column in enumerate(table.columns)]
    main = next(((i, k.better) for i, k in known if k.headline and k.better), None)

    def place(at: int) -> tuple[bool, bool, float]:
        reference = table.rows[at].reference
        if main is None or reference or not isinstance(cell := table.cells[at][main[0]], Cell):
            return (not reference, True, 0.0)
        return (True, False, -main[1] * cell.mean)

    return sorted(range(len(table.rows)), key=place)


def _blocks(table: "Table", headline: bool) -> list[list[int]]:
    """Columns that are drawn together, by index: main scores, other scores, judges, probes."""
    blocks: dict[tuple[str, bool], list[int]] = {kind: [] for kind in BLOCKS}
    for i in shown(table.columns, headline=headline):
        known = info(table.columns[i].metric)
        blocks[known.kind, known.kind == "score" and known.headline].append(i)
    return [block for block in blocks.values() if block] or [[]]


def _tuning(table: "Table") -> list[str]:
    """How settings were found, where not all are the suite's."""
    kinds = {row.tuning for row in table.rows if not row.reference}
    if kinds <= {"default"}:
        return []
    return [
        "settings: the suite's (default) unless a name ends in ', paper' or ', tuned (N trials)'; the words "
        "after a method say whose form of it this is"
    ]


def _open_rows(table: "Table") -> list[str]:
    """Which rows are in the open division, and the comparison rules they break."""
    broken = [row for row in table.rows if row.broken]
    alike = grouped(broken, lambda row: ", ".join(row.broken))
    labels = {
        rules: [row.label.replace(" (open)", "") for row in rows] for rules, rows in alike.items()
    }
    return [f"open: {', '.join(names)} (breaks {rules})" for rules, names in labels.items()]


def _rows(table: "Table") -> Iterator[Mapping[str, object]]:
    """One row a cell, then those of the headline; reasons, signature and notes included."""
    pair = {"suite": table.suite, "teacher": table.teacher, "student": table.student}
    below = {"signature": table.signature, "notes": "; ".join(table.notes)}
    whose: dict[str, dict[str, object]] = {
        row.label: pair | {"row": row.label} | row.model_dump(include=WHOSE) for row in table.rows
    }
    found: list[tuple[dict[str, float], dict[str, float]]] = [
        ({t.row: t.p for t in tests.best}, {t.a: t.p for t in tests.sft}) if tests else ({}, {})
        for tests in table.tests
    ]
    for row, cells in zip(table.rows, table.cells, strict=True):
        for column, cell, (best, sft) in zip(table.columns, cells, found, strict=True):
            yield (
                whose[row.label]
                | column.model_dump(include={"task", "edition", "protocol"})
                | {"evaluation": column.identity, "metric": column.metric}
                | {name: getattr(cell, name, None) for name in VALUES}
                | {"p_best": best.get(row.id), "p_sft": sft.get(row.id)}
                | {"reason": reason(cell)}
                | below
            )
    for label_, values in headline_rows(table.headline) if table.headline else ():
        yield whose[label_] | dict(values) | below
