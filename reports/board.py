"""Leaderboards: a pure function of finished run folders.

Means and intervals come from ``summary.json``; per-prompt ``scores.jsonl`` are read for the paired
tests between methods only. Nothing here depends on the date, the order of the arguments or the
place of the folders, so the same runs give the same bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from kdbench.harness.errors import CheckFailed, InputError
from kdbench.harness.folders import cache_folder
from kdbench.harness.records import Missing
from kdbench.harness.store import write_text
from kdbench.reports.columns import Identities, cell_of, columns_of, evaluations, task_key
from kdbench.reports.group import Section, sections
from kdbench.reports.load import find_runs
from kdbench.reports.metrics import info
from kdbench.reports.model import Board, Cell, PairTest, Table
from kdbench.reports.ranking import compare_column, embolden
from kdbench.reports.signature import table_signature

Format = Literal["terminal", "md", "csv", "latex", "json", "html"]


def build_board(
    paths: Iterable[Path | str] | Path | str,
    *,
    metrics: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    tests: bool = True,
    cache: Path | None = None,
) -> Board:
    """Builds the leaderboard of the finished runs under ``paths``.

    Args:
        paths: run folders or folders of run folders.
        metrics: metrics to show; None: all that any run has.
        tasks: tasks to show; None: all.
        tests: compare methods with each other (reads per-prompt scores); without, nothing is bold.
        cache: folder that remembers paired tests; None: the user's cache folder.

    Raises:
        InputError: no finished run, or a file that cannot be read.
    """
    runs, left_out = find_runs([paths] if isinstance(paths, str | Path) else paths)
    folder = (cache or cache_folder() / "board") if tests else None
    identities: Identities = {}
    tables = [_table(s, identities, metrics, tasks, folder) for s in sections(runs)]
    return Board(tables=tables, left_out=left_out)


def leaderboard(
    paths: Iterable[Path | str] | Path | str,
    format: Format = "terminal",
    *,
    out: Path | None = None,
    verify: bool = False,
    metrics: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    cache: Path | None = None,
) -> str:
    """Builds a board and renders it; what ``kdbench leaderboard`` prints.

    Args:
        paths: run folders or folders of run folders.
        format: how to render.
        out: file to write (atomically), or to compare with under ``verify``.
        verify: change nothing, compare with ``out``.
        metrics: metrics to show; None: all.
        tasks: tasks to show; None: all.
        cache: folder that remembers paired tests.

    Raises:
        InputError: no finished run, an unknown format, ``verify`` without an existing ``out``.
        CheckFailed: under ``verify``, a byte of ``out`` would change.
    """
    text = _renderer(format)(build_board(paths, metrics=metrics, tasks=tasks, cache=cache))
    if verify:
        _verify(text, out)
    elif out is not None:
        write_text(out, text)
    return text


def _renderer(format: Format) -> Callable[[Board], str]:
    from kdbench.reports import page, table  # rich and jinja2 only when a board is drawn

    renderers: dict[str, Callable[[Board], str]] = {
        "terminal": table.render_terminal,
        "md": table.render_markdown,
        "csv": table.render_csv,
        "latex": table.render_latex,
        "json": table.render_json,
        "html": page.render_html,
    }
    if format not in renderers:
        raise InputError(f"unknown format {format!r}; choose one of {', '.join(renderers)}")
    return renderers[format]


def _verify(text: str, out: Path | None) -> None:
    if out is None or not out.is_file():
        raise InputError("--verify compares with an existing file; name it with --out")
    old, new = out.read_bytes(), text.encode()
    if old != new:
        same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
        line = new[: len(new) if same is None else same].count(b"\n") + 1
        raise CheckFailed(f"{out} is not what its runs give now (first difference in line {line})")


def _table(
    section: Section,
    identities: Identities,
    metrics: Sequence[str] | None,
    tasks: Sequence[str] | None,
    cache: Path | None,
) -> Table:
    found = [evaluations(grouped, identities) for grouped in section.rows]
    columns = columns_of(found, metrics, tasks)
    cells: list[list[Cell | Missing]] = [
        [cell_of(grouped, row.get(task_key(column), []), column) for column in columns]
        for grouped, row in zip(section.rows, found, strict=True)
    ]
    pairs: list[list[PairTest]] = [[] for _ in columns]
    notes: list[str] = []
    if cache is not None:
        for index, column in enumerate(columns):
            if info(column.metric).better and info(column.metric).kind == "score":
                pairs[index] = compare_column(section, found, cells, index, column, cache, notes)
                embolden(section, cells, index, column, pairs[index])
    return Table(
        suite=section.suite,
        teacher=section.teacher,
        student=section.student,
        columns=columns,
        rows=[grouped.row for grouped in section.rows],
        cells=cells,
        pairs=pairs,
        notes=sorted(set(notes)),
        signature=table_signature(section, columns, cells, pairs),
    )
