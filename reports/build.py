"""From run folders to a board, with what the page needs beyond the board."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kdbench.harness import stats
from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.columns import Found, Identities, cell_of, columns_of, evaluations, task_key
from kdbench.reports.group import Section, sections
from kdbench.reports.load import find_runs
from kdbench.reports.model import Board, Cell, Column, PairTest, Table
from kdbench.reports.pairs import resamples_for
from kdbench.reports.ranking import compare_column, embolden
from kdbench.reports.text.signature import interval_text, signature, tests_text

MIXED = (
    f"not all pairs are tested alike: with a method of fewer than {stats.MIN_TRAINING_SEEDS} training "
    "seeds over prompts only, so about these students and significant more easily; else over "
    "prompts and training seeds"
)
"""The note of a table with both kinds of test, since bold and the matrix show them as one."""


class Built(NamedTuple):
    """A board with the runs behind each of its tables, in the same order."""

    board: Board
    sections: list[Section]
    found: list[list[Found]]
    """The evaluations of each row of each table."""


def build(
    paths: Iterable[Path | str],
    *,
    metrics: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    cache: Path | None = None,
) -> Built:
    """Reads the finished runs under ``paths`` and compares them.

    Args:
        paths: run folders or folders of run folders.
        metrics: metrics to show; None: all that any run has.
        tasks: tasks to show; None: all.
        cache: folder that remembers paired tests; None: no tests, nothing is bold.

    Raises:
        InputError: no finished run, or a file that cannot be read.
    """
    runs, left_out = find_runs(paths)
    identities: Identities = {}
    made = sections(runs)
    found = [[evaluations(grouped, identities) for grouped in s.rows] for s in made]
    tables = [_table(s, f, metrics, tasks, cache) for s, f in zip(made, found, strict=True)]
    return Built(Board(tables=tables, left_out=left_out), made, found)


def _table(
    section: Section,
    found: list[Found],
    metrics: Sequence[str] | None,
    tasks: Sequence[str] | None,
    cache: Path | None,
) -> Table:
    columns = columns_of(found, metrics, tasks)
    cells: list[list[Cell | Missing]] = [
        [cell_of(grouped, row.get(task_key(column), []), column) for column in columns]
        for grouped, row in zip(section.rows, found, strict=True)
    ]
    pairs: list[list[PairTest]] = [[] for _ in columns]
    notes: list[str] = []
    if cache is not None:
        for index, column in enumerate(columns):
            known = info(column.metric)
            if known.better and known.kind == "score":
                pairs[index] = compare_column(section, found, cells, index, column, cache, notes)
                embolden(section, cells, index, column, pairs[index])
            elif known.kind != "score":
                notes.append("probes and judges are shown with intervals and not tested in pairs")
    if len({pair.seeds_measured for column in pairs for pair in column}) > 1:
        notes.append(MIXED)
    return Table(
        suite=section.suite,
        teacher=section.teacher,
        student=section.student,
        columns=columns,
        rows=[grouped.row for grouped in section.rows],
        cells=cells,
        pairs=pairs,
        notes=sorted(set(notes)),
        signature=_signature(section, columns, cells, pairs),
    )


def _signature(
    section: Section,
    columns: Sequence[Column],
    cells: Sequence[Sequence[Cell | Missing]],
    pairs: Sequence[Sequence[PairTest]],
) -> str:
    """One line that says how the numbers of a table came about."""
    training = {len(grouped.row.runs) for grouped in section.rows if not grouped.row.reference}
    placed = [(column, row[i]) for i, column in enumerate(columns) for row in cells]
    values = [(column, cell) for column, cell in placed if isinstance(cell, Cell)]
    most = max((len(column) for column in pairs), default=0)
    swaps = f"paired randomisation over prompts ({resamples_for(most)} swaps)"
    tests = tests_text({pair.seeds_measured for column in pairs for pair in column}, swaps)
    return signature(
        {"suite": section.suite, "protocol": ",".join(sorted({c.protocol for c in columns}))},
        training=training,
        decoding=[cell.decoding_seeds for _, cell in values],
        prompts=[  # a probe may look at fewer
            (c.heading, cell.n_prompts) for c, cell in values if info(c.metric).kind == "score"
        ],
        how={
            "interval": interval_text(training),
            "test": f"{tests}, Holm over at most {most} pairs a column" if tests else "none",
        },
    )
