"""The two rows that ``kdbench compare`` compares, and the pair of models that they are of."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import Say
from kdbench.reports.columns import Found, evaluations
from kdbench.reports.rows import GroupedRow, Section, sections, short_ids, standing
from kdbench.reports.rules.check import pair_title
from kdbench.reports.runs import Run, told_runs

Paths = Path | str | Iterable[Path | str]


class Side(NamedTuple):
    """One of two rows."""

    grouped: GroupedRow
    found: Found
    pair: str
    """Its table: suite, teacher and student."""
    again: list[str]
    """Runs given that are a training seed once more, and no part of the row."""

    @property
    def label(self) -> str:
        """What its row is called."""
        return self.grouped.row.label

    def is_in(self, row: GroupedRow) -> bool:
        """Whether a row of a table has runs of this side."""
        return bool(set(self.grouped.row.runs) & set(row.row.runs))


def two_sides(a: Paths, b: Paths, say: Say | None, *, across: bool) -> tuple[Side, Side]:
    """Two rows of one pair of models.

    Args:
        a: run folders of one method, of one pair of models or several.
        b: the same for the other side.
        say: told of each run that is left out since it is damaged.
        across: whether rows of two pairs may be compared where there is no pair that both have.

    Raises:
        InputError: no such run, several pairs that both have, none, or several rows of it on one side.
    """
    paths = [[each] if isinstance(each, str | Path) else list(each) for each in (a, b)]
    runs = [{run.folder.path: run for run in told_runs(own, say)} for own in paths]
    tables = sections([*(runs[0] | runs[1]).values()])
    having = [[table for table in tables if _of(table, own)] for own in runs]
    both = [table for table in having[0] if table in having[1]]
    if len(both) == 1:
        having = [both, both]
    elif both:
        raise InputError(_several(both, runs))
    elif not across or max(map(len, having)) > 1:
        raise InputError(_nowhere(having, runs))
    one, two = (
        _side(_of(found, own), where, found)
        for own, where, (found,) in zip(runs, paths, having, strict=True)
    )
    return one, two


def _of(table: Section, own: Mapping[Path, Run]) -> list[Run]:
    """Those of some runs that a table has."""
    there = {run.folder.path for row in table.rows for run in row.runs}
    return [run for path, run in own.items() if path in there]


def _rows(runs: Sequence[Run]) -> list[GroupedRow]:
    """The row that runs of one side are, by themselves; several where that is not clear."""
    rows = [row for section in sections(runs) for row in section.rows]
    return standing(rows) if len({row.row.method for row in rows}) == 1 else rows


def _side(runs: Sequence[Run], paths: Sequence[Path | str], table: Section) -> Side:
    rows = _rows(runs)
    if len(rows) != 1:
        raise InputError(
            f"{_where(paths)} holds {len(rows)} different rows; name the run folders of one, separated by "
            f"commas, or its method with the first digits of a run's id: {_choices(rows)}"
        )
    apart = [each for section in sections(runs) for each in section.rows if each.row.again]
    again = [f"{each.row.label}, run {each.row.runs[0]}" for each in apart if each not in rows]
    return Side(rows[0], evaluations(rows[0]), title(table), again)


def title(table: Section) -> str:
    """A table's suite and pair of models."""
    return pair_title(table.suite, table.teacher, table.student)


def _where(paths: Sequence[Path | str]) -> str:
    return f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"


def _choices(rows: Sequence[GroupedRow]) -> str:
    """Rows as ``method:digits``, with as few digits as tell them apart, and what boards call them."""
    named = zip(rows, short_ids(rows), strict=True)
    return "; ".join(f"{g.row.method}:{digits} ({g.row.label})" for g, digits in named)


def _called(runs: Mapping[Path, Run]) -> str:
    """The methods of a side."""
    return ", ".join(dict.fromkeys(run.summary.run.method for run in runs.values()))


def _several(both: Sequence[Section], runs: Sequence[Mapping[Path, Run]]) -> str:
    """That both sides are in several pairs, and what to call the first side in each."""
    rows = [_rows(_of(table, runs[0]))[0] for table in both]
    named = [
        f"{row.row.method}:{digits} ({title(table)})"
        for row, digits, table in zip(rows, short_ids(rows), both, strict=True)
    ]
    return (
        f"{' and '.join(map(_called, runs))} are both there for {len(both)} pairs of models; give the run "
        f"folders of one, separated by commas, or name it by a run's id: {'; '.join(named)}"
    )


def _nowhere(having: Sequence[Sequence[Section]], runs: Sequence[Mapping[Path, Run]]) -> str:
    """That no pair has both sides."""
    said = [
        f"{_called(own)} is there for {' and '.join(map(title, found))}"
        for own, found in zip(runs, having, strict=True)
    ]
    return (
        f"no pair of models has both sides: {'; '.join(said)}; students of two pairs are compared only "
        "where both sides are given as run folders, each of one pair"
    )
