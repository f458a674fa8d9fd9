"""What a row of the page begins with: its place among the methods, and what its training cost."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.columns import Cell
from kdbench.reports.costs import COSTS, SECONDS
from kdbench.reports.documents.headline import NUMBERS, amount, explained, timed
from kdbench.reports.headline import Headline, Number, Place, main_columns, scale_of, weighed
from kdbench.reports.headline import quality as quality_of
from kdbench.reports.text.style import fixed
from kdbench.reports.text.writer import plain

if TYPE_CHECKING:
    from kdbench.reports.board import Table

Json = dict[str, Any]
KINDS = {SECONDS: "training time", **COSTS}


def headline_data(found: Headline) -> Json:
    """A headline as plain values, the best method first."""
    kinds = [kind for kind in KINDS if any(kind in each.cost for each in found.places)]
    return {
        "title": found.title,
        "baseline": found.baseline,
        "notes": [plain(line) for line in (*explained(found), *timed(found))],
        "quality": NUMBERS[weighed(found)].head,
        "costs": [[kind, KINDS[kind]] for kind in kinds],
        "places": [_place(each) for each in found.places],
    }


def _place(each: Place) -> Json:
    numbers = {name: _number(getattr(each, name), NUMBERS[name].digits) for name in NUMBERS}
    cost = {k: [n, amount(n, k), k in each.front] for k, n in each.cost.items()}
    shared = {"label": each.label, "alike": each.alike, "quality": quality_of(each)}
    return {**shared, **numbers, "cost": cost}


def _number(found: Number | Missing, digits: int) -> Json:
    if isinstance(found, Missing):
        return {"missing": found.missing}
    low, high = fixed(found.low, digits), fixed(found.high, digits)
    texts = {"text": fixed(found.mean, digits), "range": f"[{low}, {high}]"}
    return found.model_dump() | {name: text.replace("-", "−") for name, text in texts.items()}


def reference_gaps(table: "Table") -> Mapping[str, float]:
    """Percent of the gap that each reference row closes, by label: the teacher 100, an init below 0.

    They are drawn once and stand in no headline, so there is no interval. Empty where no method has one.
    """
    found = table.headline
    if not found or not any(isinstance(each.gap, Number) for each in found.places):
        return {}
    means = {
        row.label: _means(cells, table, found.columns)
        for row, cells in zip(table.rows, table.cells, strict=True)
        if row.reference or row.label == found.baseline
    }
    teacher = next((r.label for r in table.rows if r.reference and r.method == "teacher"), "")
    ends = means.get(found.baseline), means.get(teacher)
    if ends[0] is None or ends[1] is None or ends[0] == ends[1]:
        return {}
    references = {row.label for row in table.rows if row.reference}
    return {
        label: 100 * (mean - ends[0]) / (ends[1] - ends[0])
        for label, mean in means.items()
        if mean is not None and label in references
    }


def _means(
    cells: Sequence[Cell | Missing], table: "Table", counted: Collection[str]
) -> float | None:
    """Sum over the columns that count, in percent of each one's range; None: not in all of them."""
    total = 0.0
    for index in main_columns(table.columns):
        column, cell = table.columns[index], cells[index]
        scale = scale_of(column.metric)
        if column.heading not in counted or scale is None:
            continue
        if isinstance(cell, Missing):
            return None
        total += info(column.metric).better * scale * cell.mean
    return total
