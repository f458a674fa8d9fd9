"""What the page shows of a board, as plain JSON values; the page's script only draws it.

Every reason for an empty or partial cell is listed once a table; cells point at it.
"""

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.column_tests import PairTest
from kdbench.reports.columns import Cell, Column
from kdbench.reports.costs import completed, training_cost
from kdbench.reports.documents.board import any_bold
from kdbench.reports.documents.headline import amount
from kdbench.reports.page.blocks import Packed
from kdbench.reports.page.cards import card
from kdbench.reports.page.standing import KINDS, headline_data, reference_gaps
from kdbench.reports.rows import GroupedRow, Row
from kdbench.reports.text.style import Footnotes, fixed, interval, number

if TYPE_CHECKING:
    from kdbench.reports.board import Built, Table

Json = dict[str, Any]
SHOWN = ("method", "reference", "division", "broken", "regime", "tuning", "student")
"""Of a row, as it is."""


def page_data(built: "Built", packed: Sequence[Sequence[Packed]], most: int) -> Json:
    """All that the page's script needs but the answers themselves.

    Args:
        built: the board and its runs.
        packed: the answers of each table; the page's blocks are numbered through.
        most: bytes that the page may have.
    """
    blocks = count()
    tables = [
        _table(built, index, [e.answers.about(e.held) | {"block": next(blocks)} for e in found])
        for index, found in enumerate(packed)
    ]
    return {
        "summary": _summary(built),
        "overall": [headline_data(each) for each in built.board.overall],
        "tables": tables,
        "leftOut": built.board.left_out,
        "room": _room([each for found in packed for each in found], most),
    }


def _room(packed: Sequence[Packed], most: int) -> str:
    """A sentence on what was left out for want of room, or nothing."""
    there = sum(each.held for each in packed)
    of = sum(len(each.answers.prompts) for each in packed)
    if there == of:
        return ""
    return (
        f"This page holds at most {most / 1e6:.0f} MB, so the answers to {there:,} of {of:,} prompts are "
        "in it, the same share of each task, chosen by the prompts' hashes; kdbench show prints the others."
    )


def _summary(built: "Built") -> str:
    rows = [row for table in built.board.tables for row in table.rows]
    counts = {  # a method of two pairs or settings has several rows
        "method": len({row.method for row in rows if not row.reference}),
        "row": len(rows),
        "run": len({run for row in rows for run in row.runs}),
    }
    return ", ".join(f"{n:,} {name}{'' if n == 1 else 's'}" for name, n in counts.items())


def _table(built: "Built", index: int, groups: list[Json]) -> Json:
    table, section = built.board.tables[index], built.sections[index]
    reasons = Footnotes()
    metrics = [column.metric for column in table.columns]
    shown = {place for group in groups if group["count"] for place in group["places"]}
    costs = _costs(section.rows)
    lines = zip(table.rows, table.cells, section.rows, costs, strict=True)
    gaps = reference_gaps(table)
    rows = [
        _row(row, cells, metrics, reasons)
        | {"card": card(grouped), "sampled": place in shown, "cost": cost}
        | ({"gap": _gap(gaps[row.label])} if row.label in gaps else {})
        for place, (row, cells, grouped, cost) in enumerate(lines)
    ]
    at = {row.id: place for place, row in enumerate(table.rows)}
    pairs = [
        [_pair(p, at[p.a], at[p.b]) for p in tests.pairs] if tests else [] for tests in table.tests
    ]
    return {
        "title": table.title,
        "suite": table.suite,
        "pairTitle": table.title.removeprefix(table.suite).removeprefix(": "),
        "columns": [_column(column) for column in table.columns],
        "rows": rows,
        "reasons": list(reasons.letters),
        "pairs": pairs,
        "weak": [[at[row] for row in tests.students] if tests else [] for tests in table.tests],
        "headline": headline_data(table.headline) if table.headline else None,
        "costs": [[k, name] for k, name in KINDS.items() if any(k in row["cost"] for row in rows)],
        "legend": _legend(table),
        "mixedSeeds": len(_seeds(table)) > 1,
        "notes": table.notes,
        "signature": table.signature,
        "samples": groups,
        "sampleNote": _sample_note(groups, len(shown), len(table.rows)),
    }


def _gap(share: float) -> list[Any]:
    return [round(share, 3), fixed(share, 0).replace("-", "−")]


def _costs(rows: Sequence[GroupedRow]) -> list[Json]:
    """What one training of each row cost, by kind: the number, and how it is shown."""
    found = completed([training_cost(row).cost for row in rows])
    return [{kind: [n, amount(n, kind)] for kind, n in cost.items()} for cost in found]


def _pair(pair: PairTest, a: int, b: int) -> list[float]:
    return [a, b, pair.difference, pair.p]


def _legend(table: "Table") -> str:
    bold = "Bold: may be the best of its column. " if any_bold(table) else ""
    teacher = any(row.reference and row.method == "teacher" for row in table.rows)
    guide = " A dashed line is the teacher's mean." if teacher else ""
    numbers = _seeds(table)
    one = len(numbers) == 1 and numbers[0]
    each = f"{one} training seed{'s' * (one > 1)} a method. " if one else ""
    return (
        f"{bold}{each}Dots are means, whiskers 95% intervals, on one axis a column that spans the methods "
        f"(its ends stand under the column's name; an arrow is a value beyond).{guide} Italic rows are "
        "references: they are not ranked, and no filter hides them."
    )


def _seeds(table: "Table") -> list[int]:
    """How many training seeds the methods have."""
    return sorted({len(row.training_seeds) for row in table.rows if not row.reference})


def _sample_note(groups: list[Json], shown: int, rows: int) -> str:
    if not any(group["count"] for group in groups):
        return ""
    most = f" Of {rows} rows, {shown} have answers here." if shown < rows else ""
    return f"Answers are those of the first training seed and the first decoding seed.{most}"


def _column(column: Column) -> Json:
    known = info(column.metric)
    return {
        **{key: getattr(column, key) for key in ("task", "edition", "heading")},
        "label": known.label,
        "about": known.about or column.metric,
        **{key: getattr(known, key) for key in ("better", "digits", "kind")},
        "main": known.headline,
    }


def _row(row: Row, cells: list[Cell | Missing], metrics: list[str], reasons: Footnotes) -> Json:
    label = row.label.replace(" (open)", "", 1) if row.division == "open" else row.label
    return {
        "label": row.label,
        "name": row.method,
        "variant": label.removeprefix(row.method).strip(),
        **{key: getattr(row, key) for key in SHOWN},
        "seeds": row.training_seeds,
        "cells": [_cell(c, metric, reasons) for c, metric in zip(cells, metrics, strict=True)],
    }


def _cell(cell: Cell | Missing, metric: str, reasons: Footnotes) -> Json:
    if isinstance(cell, Missing):
        return {"missing": True, "note": reasons.index(cell.missing)}
    return {
        "text": number(cell.mean, metric).replace("-", "−"),
        "range": interval(cell, metric).replace("-", "−"),
        **{key: getattr(cell, key) for key in ("mean", "low", "high")},
        "n": cell.n_prompts,
        "bold": cell.bold,
        "note": reasons.index(cell.note) if cell.note else None,
    }
