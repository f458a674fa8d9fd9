"""Paired tests among the methods of one column, and which cells they make bold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdbench.harness import stats
from kdbench.harness.files.records import Estimate, Missing
from kdbench.harness.metrics import info
from kdbench.reports.columns import Entry, Found, task_key
from kdbench.reports.group import Section
from kdbench.reports.load import content_digest, prompt_scores, score_file
from kdbench.reports.model import Cell, Column, PairTest
from kdbench.reports.pairs import MAX_ROWS, Sample, remembered


def compare_column(
    section: Section,
    found: Sequence[Found],
    cells: Sequence[Sequence[Cell | Missing]],
    index: int,
    column: Column,
    cache: Path | None,
    notes: list[str],
) -> list[PairTest]:
    """Paired tests among the methods of a column (the best ``MAX_ROWS`` of them).

    Reference rows take no part. What could not be tested is added to ``notes``.
    """
    sign = info(column.metric).better
    ranked = []
    for position, grouped in enumerate(section.rows):
        cell = cells[position][index]
        if isinstance(cell, Cell) and not grouped.row.reference:
            ranked.append((-sign * cell.mean, position))
    ranked.sort()
    if len(ranked) > MAX_ROWS:
        notes.append(f"paired tests among the best {MAX_ROWS} methods of a column only")
    ids: list[str] = []
    entries: list[list[Entry]] = []
    for position in sorted(position for _, position in ranked[:MAX_ROWS]):
        row, mine = section.rows[position].row, found[position][task_key(column)]
        if all(score_file(entry.run, entry.key) for entry in mine):
            ids.append(row.id)
            entries.append(mine)
        else:
            notes.append(f"{column.heading}: {row.label} has no per-prompt scores, so no test")
    if len(ids) < 2:
        return []
    results = remembered(
        [_key(mine, column.metric) for mine in entries],
        lambda: [row_sample(mine, column.metric) for mine in entries],
        cache,
    )
    if len(results) < len(ids) * (len(ids) - 1) // 2:
        notes.append(f"{column.heading}: methods that share no prompts are not compared")
    return [PairTest(**(r._asdict() | {"a": ids[r.a], "b": ids[r.b]})) for r in results]


def row_sample(entries: Sequence[Entry], metric: str) -> Sample:
    """Per-prompt values of one row in one column, over the prompts all its seeds answered.

    Without any per-prompt value of the metric the sample is empty.
    """
    parts = [prompt_scores(path) for path in _scored(entries, metric)]
    parts = [part for part in parts if metric in part.values]
    if not parts:
        return Sample((), np.zeros((1, 0)), False)
    common = set(parts[0].ids).intersection(*(part.ids for part in parts[1:]))
    ids = tuple(name for name in parts[0].ids if name in common)
    values = [part.values[metric][[name in common for name in part.ids]] for part in parts]
    return Sample(ids, np.stack(values), _measured(entries, len(parts)))


def _scored(entries: Sequence[Entry], metric: str) -> list[Path]:
    """Score files of the runs that have the metric."""
    paths = [
        score_file(entry.run, entry.key)
        for entry in entries
        if isinstance(entry.metrics.get(metric), Estimate)
    ]
    return [path for path in paths if path]


def _measured(entries: Sequence[Entry], seeds: int) -> bool:
    return entries[0].run.summary.run.kind != "run" or seeds >= stats.MIN_TRAINING_SEEDS


def _key(entries: Sequence[Entry], metric: str) -> str:
    """All that a sample depends on, for the cache."""
    paths = _scored(entries, metric)
    digests = [content_digest(path) for path in paths]
    return " ".join([metric, str(_measured(entries, len(paths))), *digests])


def embolden(
    section: Section,
    cells: list[list[Cell | Missing]],
    index: int,
    column: Column,
    pairs: Sequence[PairTest],
) -> None:
    """Marks the best method and all not significantly worse, if any is significantly worse.

    A method that was not compared with the best one is not marked.
    """
    tested = {row for pair in pairs for row in (pair.a, pair.b)}
    values: dict[str, tuple[int, Cell]] = {}
    for position, grouped in enumerate(section.rows):
        cell = cells[position][index]
        if isinstance(cell, Cell) and grouped.row.id in tested:
            values[grouped.row.id] = (position, cell)
    if not values:
        return
    sign = info(column.metric).better
    best = max(values, key=lambda row: (sign * values[row][1].mean, -values[row][0]))
    versus = {p.b if p.a == best else p.a: p for p in pairs if best in (p.a, p.b)}
    worse = {row for row, pair in versus.items() if pair.p_holm < 1 - stats.LEVEL}
    if worse:
        for row in {best, *versus} - worse:
            position, cell = values[row]
            cells[position][index] = cell.model_copy(update={"bold": True})
