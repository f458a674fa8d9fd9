"""What a run ends with: which of several methods is ahead, and what to be warned of."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdbench.harness import stats
from kdbench.harness.errors import InputError
from kdbench.harness.metrics import info
from kdbench.reports.columns import Cell
from kdbench.reports.compare import ColumnComparison, compare
from kdbench.reports.headline import main_columns
from kdbench.reports.rows import GroupedRow
from kdbench.reports.text.style import number

if TYPE_CHECKING:
    from kdbench.reports.board import Built, Table

ALPHA = 0.05
TEACHER, INITS = "teacher", ("sft-init", "student-untrained")
WHY = "docs/reading-a-run.md"
MORE_SEEDS = "--seed 10, 20 and 30, then kdbench leaderboard"
"""How ``kdbench run``, which trains under one seed, comes to several."""
UNMEASURED = ("some", "none")
"""What the tests of a column say of training seeds of which not all rows' are measured."""


def verdict(built: "Built", more_seeds: str = MORE_SEEDS) -> list[str]:
    """Lines about each table of a board: the winner of several methods, then warnings.

    A method is ahead only if no other shares a letter with it: their mean scores can then be told apart.
    Where not all training seeds are measured that is said of these students only, and none is a winner.

    Args:
        built: the board.
        more_seeds: how the reader trains under more seeds.
    """
    lines = []
    for table, section in zip(built.board.tables, built.sections, strict=True):
        lines += [*_winner(table, more_seeds), *_warnings(table, section.rows)]
    return lines


def _winner(table: "Table", more_seeds: str) -> list[str]:
    methods = [row for row in table.rows if not row.reference]
    if len(methods) < 2 or table.headline is None:
        return []
    first, *others = table.headline.places
    alike = [place.label for place in others if set(place.alike) & set(first.alike)]
    if not alike:
        if why := unmeasured(table):
            return [
                f"ahead on these test rows: {first.label}; {why}, so another training may turn it round "
                f"({more_seeds})"
            ]
        return [f"winner: {first.label}"]
    return [
        f"not distinguishable: {', '.join([first.label, *alike])}; of these {first.label} has the highest "
        "mean score"
    ]


def unmeasured(table: "Table") -> str:
    """Why the tests of the main scores are about these students only; empty: seeds were measured.

    Without the variance between training seeds a difference of two methods may be their seeds' luck.
    """
    mains = [(table.columns[place], table.tests[place]) for place in main_columns(table.columns)]
    count = table.headline.columns if table.headline else [column.heading for column, _ in mains]
    known = [test for column, test in mains if test is not None and column.heading in count]
    tests = [test for test in known if test.seeds in UNMEASURED]
    if not tests:
        return ""
    methods = [row for row in table.rows if not row.reference]
    if all(len(row.training_seeds) < 2 for row in methods):
        return "one training seed a method" if len(methods) > 1 else "one training seed"
    without = {row for test in tests for row in test.students}
    return (
        f"too few training seeds of {', '.join(row.label for row in methods if row.id in without)}"
    )


def _warnings(table: "Table", rows: Sequence[GroupedRow]) -> list[str]:
    """A teacher that is no better than the init, and students that are worse than what they began as."""
    references = {each.row.method: each for each in rows if each.row.reference}
    init = next((references[name] for name in INITS if name in references), None)
    teacher = references.get(TEACHER)
    lines: list[str] = []
    if init is None:
        return lines
    if teacher is not None and (below := _below(table, rows, teacher, init)):
        lines.append(
            f"note: the teacher is below {init.row.label}: {below}; why that matters: {WHY}"
        )
    for each in rows:
        if not each.row.reference and (below := _below(table, rows, each, init)):
            lines.append(
                f"note: {each.row.label} is below {init.row.label}, from which it started: {below}; what "
                f"to look at: {WHY}"
            )
    return lines


def _below(table: "Table", rows: Sequence[GroupedRow], one: GroupedRow, other: GroupedRow) -> str:
    """By how much a row's mean over the main columns is below another's; empty where it is not.

    Columns in which that is clear are those of tests corrected for their number (Holm).
    """
    ids = [each.row.id for each in rows]
    pairs = []
    for place in main_columns(table.columns):
        a, b = (table.cells[ids.index(each.row.id)][place] for each in (one, other))
        column = table.columns[place]
        if isinstance(a, Cell) and isinstance(b, Cell) and column.metric == _first(table):
            pairs.append((column, a.mean, b.mean))
    if not pairs:
        return ""
    metric = pairs[0][0].metric
    mine = math.fsum(mean for _, mean, _ in pairs) / len(pairs)
    others = math.fsum(mean for *_, mean in pairs) / len(pairs)
    if (mine - others) * info(metric).better >= 0:
        return ""
    said = f"{info(metric).label} {number(mine, metric)} against {number(others, metric)}"
    tests = _tests(one, other, [column.task for column, *_ in pairs], metric)
    adjusted = stats.holm([test.p for test in tests]).tolist()
    clear = [
        test
        for test, p in zip(tests, adjusted, strict=True)
        if p < ALPHA and test.difference * info(metric).better < 0
    ]
    if not clear:
        return f"{said}, which may be chance"
    only = "" if all(test.seeds_measured for test in clear) else " of these students"
    return f"{said}, clearly so{only} on {', '.join(test.heading for test in clear)}"


def _first(table: "Table") -> str:
    """The main metric of the first main column; other metrics have other units."""
    return table.columns[main_columns(table.columns)[0]].metric


def _tests(
    one: GroupedRow, other: GroupedRow, tasks: Sequence[str], metric: str
) -> list[ColumnComparison]:
    sides = ([run.folder.path for run in each.runs] for each in (one, other))
    try:
        return compare(*sides, tasks=tasks, metrics=[metric]).columns
    except InputError:  # inits of several seeds are no single row
        return []
