"""``kdbench compare A B``: two rows, prompt by prompt."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdbench.harness.errors import InputError
from kdbench.harness.records import Record
from kdbench.reports import stats
from kdbench.reports.columns import Found, Identities, columns_of, evaluations, task_key
from kdbench.reports.group import GroupedRow, sections
from kdbench.reports.load import find_runs
from kdbench.reports.metrics import info
from kdbench.reports.pairs import Sample, resamples_for
from kdbench.reports.ranking import row_sample
from kdbench.reports.text import number

MOST = 10
"""Number of prompts shown that differ most."""


class PromptDifference(Record):
    """One prompt and what both rows scored on it."""

    doc_id: int
    prompt_hash: str
    a: float
    b: float


class ColumnComparison(Record):
    """Row a minus row b in one metric of one task."""

    heading: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    seeds_measured: bool
    minimum_detectable_effect: float
    """True difference this comparison finds with probability 0.8."""
    n_prompts: int
    wins: int
    """Prompts on which a is better (by the metric's direction; higher where it has none)."""
    ties: int
    losses: int
    most: list[PromptDifference]


class Comparison(Record):
    """Two rows compared in all they share. p-values are not corrected for several columns."""

    a: str
    b: str
    columns: list[ColumnComparison]


class _Side(NamedTuple):
    grouped: GroupedRow
    found: Found


def compare(
    a: Path | str | Iterable[Path | str],
    b: Path | str | Iterable[Path | str],
    *,
    tasks: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> Comparison:
    """Compares two rows; each is a run folder, or several of one method (training seeds).

    Raises:
        InputError: no such run, several rows on one side, or nothing in common.
    """
    identities: Identities = {}
    sides = [_side(paths, identities) for paths in (a, b)]
    shared = {key for key in sides[0].found if key in sides[1].found}
    common: Found = {key: sides[0].found[key] + sides[1].found[key] for key in shared}
    made = []
    for column in columns_of([common], metrics, tasks):
        one, two = (row_sample(s.found[task_key(column)], column.metric) for s in sides)
        found = _column(column.heading, column.metric, one, two)
        if found:
            made.append(found)
    left, right = (side.grouped.row.label for side in sides)
    if not made:
        raise InputError(
            f"{left} and {right} have no two prompts in common in any task; "
            "evaluate both with: kdbench eval"
        )
    return Comparison(a=left, b=right, columns=made)


def _side(paths: Path | str | Iterable[Path | str], identities: dict[str, str]) -> _Side:
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    rows = [row for section in sections(find_runs(paths)[0]) for row in section.rows]
    if len(rows) != 1:
        where = ", ".join(map(str, paths))
        raise InputError(f"{where} holds {len(rows)} different rows; name the run folders of one")
    return _Side(rows[0], evaluations(rows[0], identities))


def _column(heading: str, metric: str, a: Sample, b: Sample) -> ColumnComparison | None:
    common = sorted(set(a.ids) & set(b.ids))
    if len(common) < 2:
        return None
    a_SP, b_SP = (_aligned(sample, common) for sample in (a, b))
    measured = a.measured and b.measured
    result = stats.compare_rows(a_SP, b_SP, seeds_measured=measured, resamples=resamples_for(1))
    a_P, b_P = a_SP.mean(axis=0), b_SP.mean(axis=0)
    gain_P = (info(metric).better or 1) * (a_P - b_P)
    order = sorted(range(len(common)), key=lambda i: (-abs(gain_P[i]), common[i]))
    most = []
    for i in order[:MOST]:
        doc, _, prompt = common[i].partition(":")
        most.append(
            PromptDifference(doc_id=int(doc), prompt_hash=prompt, a=float(a_P[i]), b=float(b_P[i]))
        )
    return ColumnComparison(
        heading=heading,
        metric=metric,
        a=float(a_P.mean()),
        b=float(b_P.mean()),
        difference=result.difference,
        low=result.low,
        high=result.high,
        p=result.p,
        seeds_measured=result.seeds_measured,
        minimum_detectable_effect=stats.minimum_detectable_effect(
            result.standard_error, df=result.df
        ),
        n_prompts=len(common),
        wins=int((gain_P > 1e-9).sum()),
        ties=int((np.abs(gain_P) <= 1e-9).sum()),
        losses=int((gain_P < -1e-9).sum()),
        most=most,
    )


def _aligned(sample: Sample, common: Sequence[str]) -> stats.Array:
    place = {name: column for column, name in enumerate(sample.ids)}
    return np.asarray(sample.values_SP[:, [place[name] for name in common]])


def render_comparison(comparison: Comparison) -> str:
    """The comparison as plain text."""
    lines = [f"{comparison.a} minus {comparison.b}"]
    for column in comparison.columns:
        values = [column.difference, column.low, column.high, column.minimum_detectable_effect]
        difference, low, high, least = (number(value, column.metric) for value in values)
        scope = "" if column.seeds_measured else " (these students only: fewer than 3 seeds)"
        lines += [
            "",
            f"{column.heading} {info(column.metric).label}: {number(column.a, column.metric)} vs "
            f"{number(column.b, column.metric)}, difference {difference} [{low}, {high}], "
            f"p = {column.p:.4f}{scope}",
            f"  {column.wins} wins, {column.ties} ties, {column.losses} losses of "
            f"{column.n_prompts} prompts; detectable difference {least}",
            "  prompts that differ most (document: a, b): "
            + "; ".join(
                f"{p.doc_id}: {number(p.a, column.metric)}, {number(p.b, column.metric)}"
                for p in column.most
            ),
        ]
    return "\n".join(lines) + "\n"
