"""What the page shows of a board, as plain JSON values; the page's script only draws it.

Every reason for an empty or partial cell is listed once a table; cells point at it.
"""

from typing import TYPE_CHECKING, Any

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.column_tests import PairTest
from kdbench.reports.columns import Cell, Column
from kdbench.reports.documents.board import any_bold
from kdbench.reports.documents.headline import NUMBERS, amount, explained
from kdbench.reports.headline import COSTS, SECONDS, Headline, Number, quality, weighed
from kdbench.reports.page.cards import card
from kdbench.reports.page.samples import samples
from kdbench.reports.rows import Row
from kdbench.reports.text.style import Footnotes, fixed, interval, number
from kdbench.reports.text.writer import plain

if TYPE_CHECKING:
    from kdbench.reports.board import Built, Table

Json = dict[str, Any]
SHOWN = ("method", "reference", "division", "broken", "regime", "student")
"""Of a row, as it is."""


def page_data(built: "Built", prompts: int) -> Json:
    """All that the page's script needs.

    Args:
        built: the board and its runs.
        prompts: how many prompts of each task to show answers to.
    """
    tables = [_table(built, index, prompts) for index in range(len(built.sections))]
    return {
        "summary": _summary(built),
        "overall": [_headline(each) for each in built.board.overall],
        "tables": tables,
        "leftOut": built.board.left_out,
    }


def _summary(built: "Built") -> str:
    rows = [row for table in built.board.tables for row in table.rows]
    methods = [row for row in rows if not row.reference]
    runs = {run for row in rows for run in row.runs}
    counts = {"method": len(methods), "reference row": len(rows) - len(methods), "run": len(runs)}
    return ", ".join(f"{n:,} {name}{'' if n == 1 else 's'}" for name, n in counts.items())


def _table(built: "Built", index: int, prompts: int) -> Json:
    table, section = built.board.tables[index], built.sections[index]
    reasons = Footnotes()
    metrics = [column.metric for column in table.columns]
    groups, shown = samples(table, built.found[index], prompts)
    lines = zip(table.rows, table.cells, section.rows, strict=True)
    rows = [
        _row(row, cells, metrics, reasons) | {"card": card(grouped), "sampled": place in shown}
        for place, (row, cells, grouped) in enumerate(lines)
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
        "headline": _headline(table.headline) if table.headline else None,
        "legend": _legend(table),
        "mixedSeeds": len(_seeds(table)) > 1,
        "notes": table.notes,
        "signature": table.signature,
        "samples": groups,
        "sampleNote": _sample_note(groups, len(shown), len(table.rows)),
    }


def _pair(pair: PairTest, a: int, b: int) -> list[float]:
    return [a, b, pair.difference, pair.p]


def _headline(found: Headline) -> Json:
    kinds = [kind for kind in (SECONDS, *COSTS) if any(kind in each.cost for each in found.places)]
    return {
        "title": found.title,
        "notes": [plain(line) for line in explained(found)],
        "quality": NUMBERS[weighed(found)].head,
        "costs": [[kind, COSTS.get(kind, "seconds of training")] for kind in kinds],
        "places": [
            {
                "label": each.label,
                "alike": each.alike,
                **{
                    name: _number(getattr(each, name), NUMBERS[name].digits)
                    for name in ("rank", "gap", "beats")
                },
                "quality": quality(each),
                "cost": {
                    kind: [n, amount(n, kind), kind in each.front] for kind, n in each.cost.items()
                },
            }
            for each in found.places
        ],
    }


def _number(found: Number | Missing, digits: int) -> Json:
    if isinstance(found, Missing):
        return {"missing": found.missing}
    low, high = fixed(found.low, digits), fixed(found.high, digits)
    texts = {"text": fixed(found.mean, digits), "range": f"[{low}, {high}]"}
    return found.model_dump() | {name: text.replace("-", "−") for name, text in texts.items()}


def _legend(table: "Table") -> str:
    bold = "Bold: may be the best of its column. " if any_bold(table) else ""
    teacher = any(row.reference and row.method == "teacher" for row in table.rows)
    guide = " A dashed line is the teacher's mean." if teacher else ""
    numbers = _seeds(table)
    one = len(numbers) == 1 and numbers[0]
    each = f"{one} training seed{'s' * (one > 1)} a method. " if one else ""
    return (
        f"{bold}{each}Dots are means, whiskers 95% intervals, on one axis a column that spans the methods "
        f"(its ends stand under the column's name; an arrow is a value beyond).{guide} "
        "Italic rows are references and are not ranked."
    )


def _seeds(table: "Table") -> list[int]:
    """How many training seeds the methods have."""
    return sorted({len(row.training_seeds) for row in table.rows if not row.reference})


def _sample_note(groups: list[Json], shown: int, rows: int) -> str:
    if not groups:
        return ""
    most = f" Of {rows} rows, {shown} have answers here." if shown < rows else ""
    return (
        "Prompts are chosen by their hash, the same for all students; answers are those of the "
        f"first training seed and the first decoding seed.{most}"
    )


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
