"""A table's tests and headline: every column tested, and the main ones drawn together.

A student that is good by luck is good in all tasks, so the columns of a headline share the luck of the
training seeds, as far as the seeds' means go together.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdbench.harness import comparisons, stats
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Missing, Record
from kdbench.harness.files.store import Document
from kdbench.harness.metrics import info
from kdbench.harness.stats import Array
from kdbench.reports.agreeing import Side, of_pairs, of_tuning, pair_name, side_of
from kdbench.reports.column_tests import ColumnTests, Measured, baseline_of, line_up, measure
from kdbench.reports.columns import Cell, Column, Found, cell_of, columns_of, directed
from kdbench.reports.costs import Spent, training_cost
from kdbench.reports.headline import (
    Field,
    Headline,
    field,
    headline,
    main_columns,
    scale_of,
)
from kdbench.reports.paired import Lineup, row_seeds, scored
from kdbench.reports.rows import GroupedRow, Section
from kdbench.reports.rules.check import pair_title
from kdbench.reports.runs import grouped, scores_digest

VERSION = "14"
"""Of what is remembered: another one where the same scores give other tests."""
ALIGNED = 2
"""Fewer rows with several seeds than this do not say how columns go together: they share all luck."""


class Shown(NamedTuple):
    """A table before it is tested."""

    section: Section
    found: list[Found]
    columns: list[Column]
    cells: list[list[Cell | Missing]]
    """One list a column."""


class TableTests(Record):
    """All tests of a table, and what it says first."""

    columns: list[ColumnTests | None]
    headline: Headline | None
    notes: list[str]


class BoardTests(Record):
    """Tests of all tables, and the headlines over several pairs of models."""

    tables: list[TableTests]
    overall: list[Headline]


def shown_table(
    section: Section,
    found: list[Found],
    metrics: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
) -> Shown:
    """The columns of a table and its cells, with the variance between seeds in their intervals.

    Args:
        section: the table's rows.
        found: their evaluations.
        metrics: only these; None: all.
        tasks: only these; None: all.
    """
    columns = columns_of(found, metrics, tasks)
    cells = []
    for column in columns:
        entries = [row.get(column.key, []) for row in found]
        spreads = row_seeds(entries, column.metric).spreads()
        cells.append(
            [
                cell_of(grouped, mine, column.metric, *spread)
                for grouped, mine, spread in zip(section.rows, entries, spreads, strict=True)
            ]
        )
    return Shown(section, found, columns, cells)


def tested(shown: Sequence[Shown], cache: Path | None) -> BoardTests:
    """Tests all tables, or remembers what was found for the same scores.

    Args:
        shown: the tables.
        cache: folder of results; None: do not remember.
    """
    if cache is None:
        return _tested(shown)
    remembered = Document(cache / f"{_digest(shown)[:32]}.json", BoardTests)
    with contextlib.suppress(InputError):  # damaged, or of another version: tested again
        if remembered.exists():
            return remembered.read()
    found = _tested(shown)
    with contextlib.suppress(InputError):  # a full or read-only cache costs time, no more
        remembered.write(found)
    return found


def _digest(shown: Sequence[Shown]) -> str:
    """Of everything that the tests depend on."""
    parts = [VERSION, stats.STATS_VERSION]
    for table in shown:
        parts += table.section[:3]
        parts += [each.row.model_dump_json() for each in table.section.rows]
        parts += [str(training_cost(each)) for each in table.section.rows]
        for column in table.columns:  # those that are not tested have a place too
            known = info(column.metric)
            parts.append(f"{column.id} {known.better} {known.low} {known.high}")
        for column in filter(directed, table.columns):
            parts.append(column.id)
            for row in table.found:
                entries = scored(row.get(column.key, []), column.metric)
                parts.append(" ".join(map(scores_digest, entries)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _tested(shown: Sequence[Shown]) -> BoardTests:
    tables, fields = [], []
    for table in shown:
        found, own = _table(table)
        tables.append(found)
        fields.append(own)
    return BoardTests(tables=tables, overall=_overall(shown, fields))


def _table(table: Shown) -> tuple[TableTests, list[Field]]:
    rows = table.section.rows
    lines: dict[int, tuple[Lineup, list[str]]] = {}
    notes: set[str] = set()
    base = baseline_of(rows)
    for index, column in enumerate(table.columns):
        if directed(column):
            line, ids, problems = line_up(rows, table.found, table.cells[index], column, base)
            notes.update(problems)
            if line is not None:
                lines[index] = line, ids
    methods_there = {each.row.id for each in rows if not each.row.reference}
    main = [index for index in main_columns(table.columns) if index in lines]
    every = [i for i in main if scale_of(table.columns[i].metric) is not None]
    if loose := [table.columns[i] for i in main if i not in every]:
        named = ", ".join(f"{column.heading} {info(column.metric).label}" for column in loose)
        notes.add(f"not counted where methods stand: its scale is not known: {named}")
    # one more task asked of a few methods, or of one of their students, leaves nobody out, and says nothing
    # of the others' luck
    whole = {i: methods_there & {*lines[i][1]} & _whole(table, table.columns[i]) for i in every}
    mains = [i for i in every if 3 * len(whole[i]) >= 2 * len(methods_there)]
    students = shared_normals([lines[i] for i in mains], label=pair_name(table.section))
    normals = dict(zip(mains, students, strict=True))
    references = {each.row.id for each in rows if each.row.reference}
    found: dict[int, Measured] = {}
    for index, (line, ids) in lines.items():
        methods = sum(name not in references for name in ids)
        found[index] = measure(line, ids, methods, table.columns[index], base, normals.get(index))
    labels = {each.row.id: each.row.label for each in rows}
    guide = next((e.row.id for e in rows if e.row.reference and e.row.method == "teacher"), "")
    fields = [field(table.columns[i], found[i], labels, guide) for i in mains]
    first = headline(fields, _methods(rows), _costs(rows))
    if first:
        few = [table.columns[i].heading for i in every if i not in mains]
        first = first.model_copy(update={"few": few})
    if first and (both := of_tuning(rows, fields)):
        first = first.model_copy(update={"agreement": [both]})
    return (
        TableTests(
            columns=[found[i].tests if i in found else None for i in range(len(table.columns))],
            headline=first,
            notes=sorted(notes),
        ),
        fields,
    )


def _whole(table: Shown, column: Column) -> set[str]:
    """Ids of the rows all of whose students were asked it."""
    return {
        each.row.id
        for each, mine in zip(table.section.rows, table.found, strict=True)
        if len(mine.get(column.key, [])) == len(each.runs)
    }


def _methods(rows: Sequence[GroupedRow]) -> dict[str, str]:
    return {each.row.label: each.row.id for each in rows if not each.row.reference}


def _costs(rows: Sequence[GroupedRow]) -> Mapping[str, Spent]:
    return {each.row.label: training_cost(each) for each in rows}


def _overall(shown: Sequence[Shown], fields: Sequence[list[Field]]) -> list[Headline]:
    """One headline for each suite with several pairs of models, and one over several suites.

    Of methods by their one row in each pair; those of all pairs are ranked, and each two pairs of a suite
    (over suites: each two of different ones) are asked whether they rank alike.
    """
    pairs = [
        (table.section, side_of(table.section.rows, own))
        for table, own in zip(shown, fields, strict=True)
        if own
    ]
    made = []
    suites = grouped(pairs, lambda pair: pair[0].suite)
    for suite, several in suites.items():
        title = f"{suite}: over {len(several)} pairs of models"
        if found := _joined([side for _, side in several], title):
            sides = {pair_name(section): side for section, side in several}
            made.append(found.model_copy(update={"agreement": of_pairs(sides)}))
    title = f"over {len(pairs)} pairs of models of {len(suites)} suites"
    if len(suites) > 1 and (found := _joined([side for _, side in pairs], title)):
        agreement = [
            each
            for one, two in itertools.combinations(suites.values(), 2)
            for (a, mine), (b, theirs) in itertools.product(one, two)
            for each in of_pairs({_whole_name(a): mine, _whole_name(b): theirs})
        ]
        made.append(found.model_copy(update={"agreement": agreement}))
    return made


def _joined(sides: Sequence[Side], title: str) -> Headline | None:
    if len(sides) < 2:
        return None
    methods = {name: row for side in reversed(sides) for name, row in side.methods.items()}
    return headline([each for side in sides for each in side.fields], methods, {}, title)


def _whole_name(section: Section) -> str:
    return pair_title(section.suite, section.teacher, section.student)


# -- the luck of training, shared by the columns ---------------------------------------------------


def shared_normals(
    lines: Sequence[tuple[Lineup, Sequence[str]]],
    resamples: int = comparisons.DRAWS,
    label: str = "",
) -> list[Array]:
    """Standard normal draws for each column, one a row; a row's go together as seeds' means do.

    Args:
        lines: the columns, and the ids of their rows.
        resamples: number of draws.
        label: of the pair of models; students of another pair have luck of their own.
    """
    if not lines:
        return []
    root = _root(_together(lines))
    ids = dict.fromkeys(name for _, names in lines for name in names)
    kind = ":".join(filter(None, ["students", str(len(ids)), str(len(lines)), label]))
    drawn = stats.generator(kind).standard_normal((len(ids), resamples, len(lines))) @ root
    place = {name: at for at, name in enumerate(ids)}
    return [
        drawn[[place[name] for name in names], :, column].T
        for column, (_, names) in enumerate(lines)
    ]


def _together(lines: Sequence[tuple[Lineup, Sequence[str]]]) -> Array:
    """Correlation of the seeds' effects between columns, without the noise of prompts."""
    by_row = [dict(zip(names, line.seed_means, strict=True)) for line, names in lines]
    shared = [name for name in by_row[0] if all(name in row for row in by_row)]
    centred = [
        np.stack([row[name] - row[name].mean() for row in by_row])
        for name in shared
        if len({len(row[name]) for row in by_row}) == 1 and len(by_row[0][name]) > 1
    ]
    if len(centred) < ALIGNED:
        return np.ones((len(lines), len(lines)))
    df = sum(part.shape[1] - 1 for part in centred)
    covariance = sum((part @ part.T for part in centred), np.zeros((len(lines),) * 2)) / df
    noise = np.array([float(np.mean(line.errors.residual_M)) for line, _ in lines])
    spread = np.sqrt(np.maximum(np.diag(covariance) - noise, 1e-12))
    found = np.clip(covariance / (spread[:, None] * spread), -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def _root(correlation: Array) -> Array:
    """A matrix that gives standard normal columns the nearest correlation there is."""
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    length = np.sqrt((root**2).sum(axis=1, keepdims=True))
    return np.asarray((root / length).T)
