"""A study's table: every row's difference to the base, paired by prompt, Holm-corrected by column.

Like a board it is a pure function of finished run folders: no dates, no places.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel

from kdbench.harness import stats
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Missing, Record
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import Document
from kdbench.harness.seed_variance import SeedVariance
from kdbench.reports.columns import (
    Cell,
    Column,
    ColumnKey,
    Found,
    cell_of,
    columns_of,
    directed,
    evaluations,
)
from kdbench.reports.paired import Sample, result_fields, row_difference, row_sample, row_seeds
from kdbench.reports.rows import GroupedRow, row_of
from kdbench.reports.runs import Run
from kdbench.reports.text.style import signature, tests_text, version

R = TypeVar("R", bound=BaseModel)

Published = Mapping[str, Mapping[str, float]]
"""Row label -> task/metric -> the paper's own number."""


class Given(NamedTuple):
    """One row of a study as it is handed in: its run folders, or why there are none."""

    label: str
    folders: Sequence[Path]
    reason: str = ""
    """What runs are missing and why; empty if none."""


class About(NamedTuple):
    """What all rows of a study share, as its signature says it."""

    suite: str
    pair: str = ""
    """Teacher and student; empty: not told."""
    settings: Sequence[str] = ()
    """Of the study and of its command, over the suite's."""


class Effect(Record):
    """A row minus the base."""

    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n_prompts: int
    seeds_measured: bool

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.p_holm < 1 - stats.LEVEL


class Claim(Record):
    """What the paper's own numbers say of the same difference."""

    difference: float
    same_sign: bool | None
    """None: this table has no difference to compare with."""
    significant: bool = False
    """Whether this table's difference is."""


class AblationCell(Record):
    """A row in one column."""

    value: Cell | Missing
    effect: Effect | None = None
    """None for the base and where one of the two is missing."""
    paper: Claim | None = None


class AblationRow(Record):
    """One thing that was changed."""

    label: str
    training_seeds: list[int] = []
    runs: list[str] = []


class Ablation(Record):
    """A study as data: what every renderer draws and what ``--json`` prints."""

    title: str
    paper: str
    published_pair: str
    suite: str
    pair: str = ""
    settings: list[str] = []
    base: str
    columns: list[Column]
    rows: list[AblationRow]
    """The base first."""
    cells: list[list[AblationCell]]
    notes: list[str]
    signature: str


def build_ablation(
    given: Sequence[Given],
    *,
    title: str,
    base: str,
    about: About,
    paper: str = "",
    published: Published | None = None,
    published_pair: str = "",
    tasks: Sequence[str] | None = None,
    asked: Collection[ColumnKey] | None = None,
) -> Ablation:
    """Compares rows with the base in all scores that have a better direction.

    Args:
        given: the rows; the base is one of them.
        title: of the study.
        base: label of the row that is subtracted.
        about: for the signature.
        paper: whose ablation it is.
        published: the paper's own numbers.
        published_pair: what they are of.
        tasks: only these; None: all that any row has.
        asked: only evaluations that stand there; None: all.
    """
    lines = sorted(
        (_line(each, asked) for each in given), key=lambda line: line.given.label != base
    )
    columns = list(filter(directed, columns_of([line.found for line in lines], None, tasks)))
    by_column = [_column(lines, column, published or {}) for column in columns]
    cells = [list(row) for row in zip(*by_column, strict=True)] or [[] for _ in lines]
    rows = [line.row for line in lines]
    return Ablation(
        title=title,
        paper=paper,
        published_pair=published_pair,
        suite=about.suite,
        pair=about.pair,
        settings=list(about.settings),
        base=base,
        columns=columns,
        rows=rows,
        cells=cells,
        notes=[*_absent(lines), *_other_code(lines)],
        signature=_signature(about, _versions(lines), columns, rows, cells),
    )


def _absent(lines: Sequence["_Line"]) -> list[str]:
    return [f"{line.given.label}: {line.given.reason}" for line in lines if line.given.reason]


def _versions(lines: Sequence["_Line"]) -> str:
    """Which versions of kdbench made the runs, where it was not only the one that makes the table."""
    manifests = [manifest for line in lines for manifest in line.each(lambda run: run.manifest)]
    versions = sorted({manifest.kdbench for manifest in manifests})
    return ", ".join(versions) if versions not in ([], [version()]) else ""


def _other_code(lines: Sequence["_Line"]) -> list[str]:
    """A note of the rows that other code trained than the base, or several."""
    codes = {
        line.given.label: {code.sha256 for code in line.each(lambda run: run.drift)}
        for line in lines
    }
    base = next(iter(codes.values()), set())
    others = [label for label, code in codes.items() if code and base and code != base]
    if not others and len(base) < 2:
        return []
    listed = ", ".join(others) or "runs of one row"
    return [f"trained by other code of kdbench than the base (their code.json differ): {listed}"]


class _Line(NamedTuple):
    """A row with what its runs hold."""

    given: Given
    grouped: GroupedRow | None = None
    found: Found = {}

    @property
    def row(self) -> AblationRow:
        """As it is shown."""
        shown = (
            self.grouped.row.model_dump(include={"training_seeds", "runs"}) if self.grouped else {}
        )
        return AblationRow(label=self.given.label, **shown)

    def each(self, what: Callable[[RunFolder], Document[R]]) -> list[R]:
        """A document of each run that has it and can be read."""
        found = []
        for run in map(RunFolder, self.given.folders):
            with contextlib.suppress(InputError):
                found.append(what(run).find())
        return [each for each in found if each is not None]


def _line(given: Given, asked: Collection[ColumnKey] | None) -> _Line:
    if not given.folders:
        return _Line(given)
    grouped = row_of([Run(run, run.summary.read()) for run in map(RunFolder, given.folders)])
    found = evaluations(grouped)
    shown = {key: found[key] for key in found if asked is None or key in asked}
    return _Line(given, grouped, shown)


def _column(lines: Sequence[_Line], column: Column, published: Published) -> list[AblationCell]:
    """One column of the table, the base first."""
    seeds = row_seeds([line.found.get(column.key, []) for line in lines], column.metric)
    spreads = seeds.spreads()
    values = [_value(line, column, *spread) for line, spread in zip(lines, spreads, strict=True)]
    effects = _effects(lines, values, column, seeds)
    name = f"{column.task}/{column.metric}"
    base, *theirs = (published.get(line.given.label, {}).get(name) for line in lines)
    papers = [None, *(_claim(p, base, e) for p, e in zip(theirs, effects[1:], strict=True))]
    return [
        AblationCell(value=value, effect=effect, paper=paper)
        for value, effect, paper in zip(values, effects, papers, strict=True)
    ]


def _value(line: _Line, column: Column, variance: float, df: float) -> Cell | Missing:
    if line.grouped is None:
        return Missing(missing=line.given.reason or "no run of this row is finished")
    return cell_of(line.grouped, line.found.get(column.key, []), column.metric, variance, df)


def _effects(
    lines: Sequence[_Line],
    values: Sequence[Cell | Missing],
    column: Column,
    seeds: SeedVariance,
) -> list[Effect | None]:
    """Each row against the first; p-values corrected over the rows of the column."""
    samples = [
        row_sample(line.found[column.key], column.metric) if isinstance(value, Cell) else None
        for line, value in zip(lines, values, strict=True)
    ]
    raw = [None, *(_effect(s, samples[0], seeds.of([i, 0])) for i, s in enumerate(samples) if i)]
    adjusted = iter(stats.holm([effect.p for effect in raw if effect]))
    return [
        effect and effect.model_copy(update={"p_holm": round(float(next(adjusted)), 9)})
        for effect in raw
    ]


def _effect(sample: Sample | None, base: Sample | None, seeds: SeedVariance) -> Effect | None:
    if sample is None or base is None:
        return None
    theirs = set(sample.ids)
    common = [name for name in base.ids if name in theirs]
    result = row_difference(sample, base, common, seeds)
    if result is None:
        return None
    rounded = {name: round(getattr(result, name), 6) for name in ("difference", "low", "high")}
    fields = result_fields(result) | rounded | {"p": round(result.p, 9)}
    return Effect(**fields, p_holm=1.0, n_prompts=len(common))


def _claim(ours: float | None, base: float | None, effect: Effect | None) -> Claim | None:
    """The paper's numbers of a row and of the base, beside this table's difference."""
    if ours is None or base is None:
        return None
    difference = round(ours - base, 6)
    if effect is None:
        return Claim(difference=difference, same_sign=None)
    agrees = bool(np.sign(effect.difference) == np.sign(difference))
    return Claim(difference=difference, same_sign=agrees, significant=effect.significant)


def _signature(
    about: About,
    versions: str,
    columns: Sequence[Column],
    rows: Sequence[AblationRow],
    cells: Sequence[Sequence[AblationCell]],
) -> str:
    """One line that says how the numbers came about."""
    pairs = [(column, cell) for row in cells for column, cell in zip(columns, row, strict=True)]
    effects = [(column, cell.effect) for column, cell in pairs if cell.effect]
    tests = tests_text({effect.seeds_measured for _, effect in effects})
    return signature(
        {
            **({"runs of kdbench": versions} if versions else {}),
            "suite": about.suite,
            **({"pair": about.pair} if about.pair else {}),
            **({"settings": ", ".join(about.settings)} if about.settings else {}),
            "protocol": ",".join(sorted({column.protocol for column in columns})),
        },
        training={len(row.runs) for row in rows if row.runs},
        decoding=[cell.value.decoding_seeds for _, cell in pairs if isinstance(cell.value, Cell)],
        prompts=[(column.heading, effect.n_prompts) for column, effect in effects],
        how={
            "difference": f"row minus base, 95% interval; {tests}" if tests else "none",
            "correction": f"Holm over the {len(rows) - 1} differences of a column",
        },
    )
