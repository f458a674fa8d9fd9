"""A board as papers print it: one table of main scores with their average, bold as on the board."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.columns import Cell, Column
from kdbench.reports.documents.board import label
from kdbench.reports.headline import main_columns
from kdbench.reports.text import document as doc
from kdbench.reports.text.style import fixed, interval, number

if TYPE_CHECKING:
    from kdbench.reports.board import Board, Table

Spread = Literal["pm", "interval", "none"]
SPREADS: tuple[Spread, ...] = get_args(Spread)
"""How sure a number is: ± half of its 95% interval, the interval, or nothing."""
AVERAGE = "Avg."


def paper_document(
    board: "Board", *, spread: Spread = "pm", metrics: Sequence[str] | None = None
) -> doc.Document:
    """A table for each suite and pair of models.

    Args:
        board: the board.
        spread: what stands behind a mean.
        metrics: those that were asked for; None: the first main score of each task.
    """
    made = [_section(table, spread, metrics) for table in board.tables]
    return doc.Document("", [section for section in made if section.parts])


def _section(table: "Table", spread: Spread, metrics: Sequence[str] | None) -> doc.Section:
    places = main_columns(table.columns)
    if metrics is not None or not places:
        places = list(range(len(table.columns)))
    if not places:
        return doc.Section("", [])
    columns = [table.columns[i] for i in places]
    averages = _averages(table, places)
    rows = []
    for at in _order(table, places, averages):
        row, values = table.rows[at], [table.cells[at][i] for i in places]
        shown = [_value(*each, spread) for each in zip(values, columns, strict=True)]
        name = label(row.label, []) if _alike(table) else label(row.label, row.training_seeds)
        rows.append([name, *shown, *_average(averages, at, columns)])
    heads = [info(column.metric).label for column in columns]
    groups = ["", *(_group(column, columns) for column in columns)]
    if len(set(heads)) == 1:  # the caption says it
        heads, groups = groups[1:], []
    head = ["Method", *heads, *([AVERAGE] if averages else [])]
    made = doc.Table(
        head,
        rows,
        right=range(1, len(head)),
        groups=[*groups, *([""] if averages else [])] if groups else (),
        references=sum(row.reference for row in table.rows),
        caption=_caption(table, places, spread),
    )
    return doc.Section(table.title, [made])


def _group(column: Column, columns: Sequence[Column]) -> str:
    """Whose scores a column has: the task, or what tells its several evaluations apart."""
    alike = {each.heading for each in columns if each.task == column.task}
    return column.heading if len(alike) > 1 else column.task


def _averages(table: "Table", places: Sequence[int]) -> dict[int, float]:
    """Of the rows that have all columns their mean.

    None where there is one column, where columns have several metrics or protocols, and where a task has
    several.
    """
    columns = [table.columns[i] for i in places]
    tasks, shared = {c.task for c in columns}, {(c.metric, c.protocol) for c in columns}
    if len(places) < 2 or len(tasks) < len(places) or len(shared) > 1:
        return {}
    found = {}
    for at, cells in enumerate(table.cells):
        means = [cell.mean for i in places if isinstance(cell := cells[i], Cell)]
        if len(means) == len(places):
            found[at] = math.fsum(means) / len(means)
    return found


def _order(table: "Table", places: Sequence[int], averages: dict[int, float]) -> list[int]:
    """References as they come, then methods, the best average (else first score) first."""
    sign = info(table.columns[places[0]].metric).better or 1

    def key(at: int) -> tuple[bool, float]:
        first = table.cells[at][places[0]]
        value = averages.get(at, first.mean if isinstance(first, Cell) else -sign * math.inf)
        return (not table.rows[at].reference, 0.0 if table.rows[at].reference else -sign * value)

    return sorted(range(len(table.rows)), key=key)


def _value(cell: Cell | Missing, column: Column, spread: Spread) -> doc.Cell:
    """A mean, bold where the board's is: where a test can tell a method of the column from the best."""
    if isinstance(cell, Missing):
        return "–"
    mean = number(cell.mean, column.metric)
    shown: doc.Piece = doc.Strong(mean) if cell.bold else mean
    if spread == "none" or cell.low is None or cell.high is None:
        return shown
    half = f"± {number((cell.high - cell.low) / 2, column.metric)}"
    return (shown, doc.Small(half if spread == "pm" else interval(cell, column.metric)))


def _average(averages: dict[int, float], at: int, columns: Sequence[Column]) -> list[doc.Cell]:
    """The average of a row, never bold: no test is made of it."""
    if not averages:
        return []
    return [fixed(averages[at], info(columns[0].metric).digits) if at in averages else "–"]


def _alike(table: "Table") -> bool:
    """Whether all methods have as many training seeds, so that the caption says it once."""
    return len({len(row.training_seeds) for row in table.rows if not row.reference}) == 1


def _caption(table: "Table", places: Sequence[int], spread: Spread) -> str:
    columns = [table.columns[i] for i in places]
    labels = dict.fromkeys(info(column.metric).label for column in columns)
    editions = dict.fromkeys(column.edition for column in columns)
    protocols = dict.fromkeys(column.protocol for column in columns)
    said = [f"{' and '.join(labels)} of students on {table.suite} ({', '.join(editions)})"]
    said[0] += f", {table.teacher} to {table.student}, protocol {' and '.join(protocols)}."
    seeds = {len(row.training_seeds) for row in table.rows if not row.reference}
    if _alike(table):
        count = seeds.pop()
        said.append(f"Means over {count} training seed{'s' if count > 1 else ''}.")
    else:
        said.append("×N: N training seeds.")
    if spread != "none":
        half = "± is half of the 95% interval" if spread == "pm" else "In brackets the 95% interval"
        shared = any(test and test.shared for i in places for test in table.tests[i : i + 1])
        left = "; differences between seeds that all methods share are left out" if shared else ""
        said.append(f"{half}{left}.")
    return " ".join([*said, *_bold(table, places)])


def _bold(table: "Table", places: Sequence[int]) -> list[str]:
    """What bold means, and why there is none where one looks for it; nothing of a method alone."""
    if sum(not row.reference for row in table.rows) < 2:
        return []
    flat = [i for i in places if not any(_is_bold(cells[i]) for cells in table.cells)]
    if len(flat) == len(places):
        return ["Nothing is bold: no test tells a method from the best of its column."]
    said = "Bold: cannot be told from the best of its column (model confidence set, .05)"
    return [
        f"{said}; nothing is bold where no test tells a method from the best."
        if flat
        else f"{said}."
    ]


def _is_bold(cell: Cell | Missing) -> bool:
    return isinstance(cell, Cell) and cell.bold
