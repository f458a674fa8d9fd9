"""The tests of a column: against the best and against SFT first, all pairs second."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdbench.harness import comparisons, stats
from kdbench.harness.files.records import Missing, Record
from kdbench.harness.metrics import info
from kdbench.reports.columns import Cell, Column, Found
from kdbench.reports.paired import Lineup, lineup
from kdbench.reports.rows import GroupedRow, standing
from kdbench.reports.runs import grouped

MAX_ROWS = 50
"""Methods are tested among at most this many of a column (the best ones)."""
ALPHA = 1 - stats.LEVEL
INITS = ("sft-init", "sft init", "sft_init", "init")


class BestTest(Record):
    """Whether a row may be the best of its column."""

    row: str
    p: float
    """Of all rows together; below .05 the row is worse than the best."""


class PairTest(Record):
    """Row ``a`` minus row ``b`` in one column, over the prompts that all its rows answered."""

    a: str
    b: str
    difference: float
    p: float
    """Of the whole family (see ``ColumnTests``)."""


class ColumnTests(Record):
    """What can be told apart in a column. Each of the three families has a familywise error of .05."""

    n_prompts: int
    seeds: str
    """``pooled``: training seeds have one variance for all rows; ``own``: each row its own, moderated;
    ``some``: not all rows' are measured; ``none``: no row's is, and tests are about these students."""
    students: list[str] = []
    """Methods whose training seeds are not measured: their tests are about these students."""
    spread: float | None = None
    """Standard deviation of one training seed where pooled, less what it does to all methods alike."""
    shared: float | None = None
    """Standard deviation of what one training seed does to all methods alike; no interval holds it."""
    df: float = 0.0
    homogeneity_p: float = 1.0
    best: list[BestTest] = []
    baseline: str = ""
    """The row of SFT, or of the SFT init where no run of ``sft`` is there."""
    sft: list[PairTest] = []
    """Each method minus the baseline."""
    pairs: list[PairTest] = []

    @property
    def worse(self) -> set[str]:
        """Rows that are worse than the best."""
        return {test.row for test in self.best if test.p < ALPHA}


class Measured(NamedTuple):
    """A column with its tests, and with what its true means may be, for what is made of several."""

    tests: ColumnTests
    draws: comparisons.Column
    ids: list[str]
    """The rows of ``draws``: methods, then references."""


def baseline_of(rows: Sequence[GroupedRow]) -> str:
    """Id of the row that methods should beat: the one of ``sft``, else the SFT init, else nothing."""
    methods = [each for each in rows if each.row.method == "sft" and not each.row.reference]
    inits = [each for each in rows if each.row.reference and each.row.method.lower() in INITS]
    for several in (methods, inits):
        if several and len(kept := standing(several)) == 1:
            return kept[0].row.id
    return ""


def line_up(
    rows: Sequence[GroupedRow],
    found: Sequence[Found],
    cells: Sequence[Cell | Missing],
    column: Column,
    base: str,
) -> tuple[Lineup | None, list[str], list[str]]:
    """The methods of a column (the best `MAX_ROWS`), and the references behind them.

    Args:
        rows: of the table.
        found: their evaluations.
        cells: their cells of the column.
        column: the column.
        base: id of the row that methods should beat, which is never left out; empty: none is there.

    Returns:
        The rows on their common prompts, their ids, and notes on rows that stay out.
    """
    sign = info(column.metric).better
    placed = [(i, cell) for i, cell in enumerate(cells) if isinstance(cell, Cell)]
    ranked = sorted(placed, key=lambda pair: (-sign * pair[1].mean, pair[0]))
    methods = [i for i, _ in ranked if not rows[i].row.reference]
    references = [i for i, _ in ranked if rows[i].row.reference]
    most = methods[:MAX_ROWS] + [i for i in methods[MAX_ROWS:] if rows[i].row.id == base]
    notes = []
    if len(methods) > MAX_ROWS:
        notes.append(f"tests among the best {MAX_ROWS} methods of a column only")
    entries = {i: found[i][column.key] for i in (*most, *references)}
    kept = [i for i, own in entries.items() if all(e.evaluation.scores_file.is_file() for e in own)]
    notes += [
        f"{column.heading}: {rows[i].row.label} has no per-prompt scores, so no test"
        for i in most
        if i not in kept
    ]
    made = lineup([entries[i] for i in kept], column.metric)
    ids = [rows[kept[at]].row.id for at in made.places] if made else []
    if any(rows[i].row.id not in ids for i in kept if i in most) and len(most) > 1:
        notes.append(f"{column.heading}: methods that share no prompts are not compared")
    return made, ids, notes


def measure(
    line: Lineup,
    ids: Sequence[str],
    methods: int,
    column: Column,
    base: str,
    normal_RM: stats.Array | None,
) -> Measured:
    """Tests the methods of a column.

    Args:
        line: its rows on common prompts.
        ids: theirs.
        methods: so many of them, the first, are methods; the rest are references.
        column: the column.
        base: id of the row that methods should beat; empty: none is there.
        normal_RM: see `comparisons.column`.
    """
    draws = comparisons.column(line.errors, line.label, normal_RM=normal_RM)
    own = draws.of(range(methods))
    first, second = np.triu_indices(methods, k=1)
    best = comparisons.best_p(own, info(column.metric).better)
    against = [i for i in range(methods) if ids[i] != base]
    seeds = line.errors.seeds
    tests = ColumnTests(
        n_prompts=len(line.errors.mean_PM),
        seeds=_seeds(line, methods),
        students=[
            i
            for i, known in zip(ids[:methods], seeds.measured_M.tolist(), strict=False)
            if not known
        ],
        spread=None if seeds.spread is None else round(seeds.spread, stats.DECIMALS),
        shared=round(seeds.shared**0.5, stats.DECIMALS) if seeds.share_MS is not None else None,
        df=float(seeds.df_M.max()),
        homogeneity_p=round(seeds.p, 4),
        best=[BestTest(row=i, p=round(p, 6)) for i, p in zip(ids, best.tolist(), strict=False)],
        baseline=base if base in ids else "",
        sft=_pairs(draws, against, [ids.index(base)] * len(against), ids) if base in ids else [],
        pairs=_pairs(own, first.tolist(), second.tolist(), ids),
    )
    return Measured(tests, draws, list(ids))


def _pairs(
    draws: comparisons.Column, first: Sequence[int], second: Sequence[int], ids: Sequence[str]
) -> list[PairTest]:
    if not len(first):
        return []
    a, b = np.array(first), np.array(second)
    family = comparisons.family_p(draws, a, b)
    difference = draws.mean_M[a] - draws.mean_M[b]
    return [
        PairTest(a=ids[i], b=ids[j], difference=round(float(d), 6), p=round(float(p), 6))
        for i, j, d, p in zip(first, second, difference, family, strict=True)
    ]


def _seeds(line: Lineup, methods: int) -> str:
    seeds = line.errors.seeds
    known = seeds.measured_M[:methods]
    if seeds.pooled:
        return "pooled"
    return "own" if known.all() else "some" if known.any() else "none"


def with_bold(
    rows: Sequence[GroupedRow], cells: Sequence[Cell | Missing], tests: ColumnTests | None
) -> list[Cell | Missing]:
    """The cells of a column, bold where a method may be the best, if any method is not."""
    if tests is None or not (worse := tests.worse):
        return list(cells)
    bold = {test.row for test in tests.best} - worse
    return [
        cell.model_copy(update={"bold": True}) if each.row.id in bold else cell
        for each, cell in zip(rows, cells, strict=True)
    ]


def undecided(tests: Sequence[tuple[str, ColumnTests]]) -> list[str]:
    """A note on the columns in which no method can be told from the best.

    Args:
        tests: of each column its name and its tests.
    """
    compared = [(name, test) for name, test in tests if len(test.best) > 1]
    flat = [name for name, test in compared if not test.worse]
    if not flat:
        return []
    if len(flat) == len(compared):
        return ["no method can be told from the best in any column: nothing is bold"]
    return [f"no method can be told from the best in {', '.join(flat)}: nothing is bold there"]


SEEDS = {
    "pooled": "training seeds have one variance for all methods",
    "own": "each method has its own variance between training seeds, a small one raised towards the others'",
    "some": "methods of one training seed are tested over prompts only, so about these students, and "
    "significant more easily",
    "none": "one training seed a method: tests are over prompts only and about these students",
}


def seeds_notes(tests: Sequence[tuple[str, ColumnTests]]) -> list[str]:
    """How training seeds stand in the tests: for most columns, and for the others by name."""
    by_kind = grouped([each for each in tests if len(each[1].best) > 1], lambda each: each[1].seeds)
    most = max(by_kind, key=lambda kind: len(by_kind[kind]), default="")
    notes = [
        SEEDS[kind]
        + ("" if kind == most else f" in {', '.join(name for name, _ in by_kind[kind])}")
        for kind in sorted(by_kind, key=lambda kind: kind != most)
    ]
    moved = [(name, test.shared) for name, test in tests if test.shared]
    if not moved:
        return notes
    name, most_moved = max(moved, key=lambda each: each[1])
    return [
        *notes,
        "methods are compared seed by seed: what a training seed does to all of them alike is in no "
        f"interval (in {len(moved)} columns; standard deviation at most {most_moved:.1f}: {name})",
    ]
