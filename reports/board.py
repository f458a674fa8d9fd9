"""Leaderboards: a pure function of finished run folders.

Means and intervals come from ``summary.json``; per-prompt ``scores.jsonl`` are read for the paired
tests between methods only. Nothing here depends on the date, the order of the arguments or the
place of the folders, so the same runs give the same bytes. The page also shows what runs hold
beside it: configuration, provenance, and some stored answers.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, Unpack

from kdbench.harness.comparisons import DRAWS
from kdbench.harness.errors import CheckFailed, InputError
from kdbench.harness.files.records import Missing, Record
from kdbench.harness.files.store import Say, write_text
from kdbench.harness.metrics import disputed, info
from kdbench.harness.printing import visible_json
from kdbench.reports.column_tests import ColumnTests, seeds_notes, undecided, with_bold
from kdbench.reports.columns import Cell, Column, Found, evaluations, named_metrics, too_long
from kdbench.reports.documents.board import board_document
from kdbench.reports.documents.paper import Spread, paper_document
from kdbench.reports.headline import Headline
from kdbench.reports.measured import Shown, TableTests, shown_table, tested
from kdbench.reports.rows import Row, Section, sections
from kdbench.reports.rules.check import Rulebook, pair_title
from kdbench.reports.runs import damaged, finished_runs, without_unasked
from kdbench.reports.text.formats import FILE_WIDTH, write
from kdbench.reports.text.style import interval_text, signature
from kdbench.reports.text.terminal import Terminal

Format = Literal["terminal", "md", "csv", "latex", "json", "html"]

FILES: Mapping[str, str] = {
    "html": "index.html",
    "md": "board.md",
    "csv": "board.csv",
    "latex": "board.tex",
    "json": "board.json",
    "terminal": "board.txt",
}
"""What a folder with a whole board holds: format -> file."""
SUFFIXES = {Path(name).suffix: format for format, name in FILES.items()}
JOINT = (
    "with the best: model confidence set; with SFT and all pairs: step-down max-t; each over "
    f"{DRAWS} joint draws of prompts and training seeds, .05 familywise in a column"
)
BORROWED = "one training seed, so the others' variance between seeds is taken for it"
AGAIN = (
    "a training seed once more is no second sample: the row has the run that was evaluated most (of equals, "
    "the lowest id), and apart stands"
)
DISPUTED = "runs contradict each other on which way is better, so nothing is compared"
UNTESTED = "probes and judges are shown with intervals and not tested in pairs"


class Table(Record):
    """All rows that share a suite, a teacher and a student."""

    suite: str
    teacher: str
    student: str
    columns: list[Column]
    rows: list[Row]
    cells: list[list[Cell | Missing]]
    """One list a row, in the order of ``columns``."""
    tests: list[ColumnTests | None]
    """What can be told apart in each column; None where nothing is tested."""
    headline: Headline | None = None
    """Where the methods stand; None: fewer than two are in all main columns."""
    notes: list[str]
    signature: str

    @property
    def title(self) -> str:
        """Suite and pair in words."""
        return pair_title(self.suite, self.teacher, self.student)


class Board(Record):
    """A leaderboard."""

    tables: list[Table]
    overall: list[Headline] = []
    """Where the methods stand over several pairs of models, one a suite that has several."""
    left_out: list[str] = []


class Built(NamedTuple):
    """A board with the runs behind each of its tables, in the same order."""

    board: Board
    sections: list[Section]
    found: list[list[Found]]
    """The evaluations of each row of each table."""


class Choice(TypedDict, total=False):
    """What of a board is built, and how; a field left out, or None, is the default."""

    metrics: Sequence[str] | None
    """Metrics to show; None: all that any run has."""
    tasks: Sequence[str] | None
    """Tasks to show; None: all."""
    spread: Spread | None
    """How sure a number of LaTeX's first table is; None: ±."""
    rules: Rulebook | None
    """What divides methods into closed and open; None: the default version."""
    cache: Path | None
    """Folder that remembers paired tests; None: do not remember."""
    say: Say | None
    """Told of each run that is left out for another reason than having no end yet."""


def leaderboard(
    paths: Iterable[Path | str] | Path | str,
    format: Format = "terminal",
    *,
    out: Path | None = None,
    verify: bool = False,
    **chosen: Unpack[Choice],
) -> str:
    """Builds a board and renders it in one format.

    Args:
        paths: run folders or folders of run folders.
        format: how to render.
        out: file to write (atomically), or to compare with under ``verify``.
        verify: change nothing, compare with ``out``; remembered tests are not trusted.
        chosen: see `Choice`.

    Raises:
        InputError: no finished run, an unknown format, ``verify`` without an existing ``out``.
        CheckFailed: under ``verify``, a byte of ``out`` would change.
    """
    if format not in FILES:
        raise InputError(f"unknown format {format!r}; choose one of {', '.join(FILES)}")
    if verify and (out is None or not out.is_file()):
        raise InputError("--verify compares with an existing file; name it with --out")
    built = build(paths, **_trusted(chosen, verify))
    text = render(built, format, out is not None, chosen)
    if out is not None:
        _deliver({out: text}, verify)
    return text


def leaderboard_folder(
    paths: Iterable[Path | str] | Path | str,
    out: Path,
    *,
    verify: bool = False,
    **chosen: Unpack[Choice],
) -> list[Path]:
    """Writes a board in every format into a folder; returns the files.

    Args:
        paths: run folders or folders of run folders.
        out: the folder; ``FILES`` says what it will hold.
        verify: change nothing, compare with those of the files that are there.
        chosen: see `Choice`.

    Raises:
        InputError: no finished run, ``verify`` without a file to compare with.
        CheckFailed: under ``verify``, a byte would change; the sentence names each file.
    """
    files = {format: out / name for format, name in FILES.items()}
    if verify:
        files = {format: file for format, file in files.items() if file.is_file()}
    if not files:
        raise InputError(f"no board in {out}; write one with: kdbench leaderboard RUNS --out {out}")
    built = build(paths, **_trusted(chosen, verify))
    texts = {file: render(built, format, True, chosen) for format, file in files.items()}
    _deliver(texts, verify)
    return list(files.values())


# -- tables ---------------------------------------------------------------------------------------


def build(paths: Iterable[Path | str] | Path | str, **chosen: Unpack[Choice]) -> Built:
    """Reads the finished runs under ``paths`` and compares them.

    Args:
        paths: run folders or folders of run folders.
        chosen: see `Choice`.

    Raises:
        InputError: no finished run, or a file that cannot be read.
    """
    runs, left_out = finished_runs([paths] if isinstance(paths, str | Path) else paths)
    if say := chosen.get("say"):
        for reason in damaged(left_out):
            say(reason)
    runs, unasked = without_unasked(runs)
    made = sections(runs, chosen.get("rules"))
    found = [[evaluations(grouped) for grouped in section.rows] for section in made]
    everything, tasks = [row for table in found for row in table], chosen.get("tasks")
    wanted = named_metrics(everything, chosen.get("metrics"), tasks), tasks
    shown = [shown_table(*each, *wanted) for each in zip(made, found, strict=True)]
    tests = tested(shown, chosen.get("cache"))
    tables = [_table(*each) for each in zip(shown, tests.tables, strict=True)]
    board = Board(tables=tables, overall=tests.overall, left_out=[*left_out, *unasked])
    return Built(board, made, found)


def _trusted(chosen: Choice, verify: bool) -> Choice:
    """The same without remembered tests, where a board is verified."""
    return {**chosen, "cache": None} if verify else chosen


def _table(shown: Shown, found: TableTests) -> Table:
    section, columns = shown.section, shown.columns
    by_column = [
        with_bold(section.rows, cells, tests)
        for cells, tests in zip(shown.cells, found.columns, strict=True)
    ]
    notes = {*found.notes, *too_long(section.rows, shown.found, columns)}
    pooled = any(tests and tests.seeds == "pooled" and tests.spread for tests in found.columns)
    single = [e.row.label for e in section.rows if not e.row.reference and len(e.runs) == 1]
    if pooled and single:
        notes.add(f"{BORROWED}: {', '.join(single)}")
    if again := [e.row.label for e in section.rows if e.row.again]:
        notes.add(f"{AGAIN}: {', '.join(again)}")
    if any(info(column.metric).kind != "score" for column in columns):
        notes.add(UNTESTED)
    for metric in sorted({column.metric for column in columns if disputed(column.metric)}):
        notes.add(f"{DISPUTED}: {info(metric).label}")
    named = [
        (f"{column.heading} {info(column.metric).label}", tests)
        for column, tests in zip(columns, found.columns, strict=True)
        if tests is not None
    ]
    cells_of = [[cells[place] for cells in by_column] for place in range(len(section.rows))]
    return Table(
        **section._asdict() | {"rows": [grouped.row for grouped in section.rows]},
        columns=columns,
        cells=cells_of,
        tests=found.columns,
        headline=found.headline,
        notes=[*undecided(named), *seeds_notes(named), *sorted(notes)],
        signature=_signature(section, columns, cells_of, found.columns),
    )


def _signature(
    section: Section,
    columns: Sequence[Column],
    cells: Sequence[Sequence[Cell | Missing]],
    tests: Sequence[ColumnTests | None],
) -> str:
    """One line that says how the numbers of a table came about."""
    training = {len(grouped.row.runs) for grouped in section.rows if not grouped.row.reference}
    placed = [(column, row[i]) for i, column in enumerate(columns) for row in cells]
    values = [(column, cell) for column, cell in placed if isinstance(cell, Cell)]
    made = [test for test in tests if test is not None and len(test.best) > 1]
    return signature(
        {"suite": section.suite, "protocol": ",".join(sorted({c.protocol for c in columns}))},
        training=training,
        decoding=[cell.decoding_seeds for _, cell in values],
        prompts=[  # a probe may look at fewer
            (c.heading, cell.n_prompts) for c, cell in values if info(c.metric).kind == "score"
        ],
        how={"interval": interval_text(training), "test": JOINT if made else "none"},
    )


# -- rendering ------------------------------------------------------------------------------------


def render(built: Built, format: str, to_file: bool, chosen: Choice | None = None) -> str:
    """A board as text of one format; for a terminal as wide as it is, unless it goes into a file."""
    if format == "html":
        from kdbench.reports.page.html import render_html  # jinja2 only when a page is drawn

        return render_html(built)
    if format == "json":
        return visible_json(built.board.model_dump(mode="json"), indent=1) + "\n"
    if format == "terminal":
        width = FILE_WIDTH if to_file else shutil.get_terminal_size((FILE_WIDTH, 24)).columns
        return Terminal(width).write(board_document(built.board, headline=True))
    whole = board_document(built.board)
    if format == "latex":  # what a paper prints comes first, then all that the board says
        asked = chosen or {}
        paper = paper_document(
            built.board, spread=asked.get("spread") or "pm", metrics=asked.get("metrics")
        )
        whole = whole._replace(sections=[*paper.sections, *whole.sections])
    return write(whole, format)


def _deliver(texts: Mapping[Path, str], verify: bool) -> None:
    """Writes files, or compares them with what is there."""
    if not verify:
        for file, text in texts.items():
            write_text(file, text)
    elif problems := list(filter(None, (_change(text, file) for file, text in texts.items()))):
        raise CheckFailed("; ".join(problems))


def _change(text: str, out: Path) -> str:
    """Where a file is not this text, or nothing."""
    old, new = out.read_bytes(), text.encode()
    if old == new:
        return ""
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    line = new[: len(new) if same is None else same].count(b"\n") + 1
    return f"{out} is not what its runs give now (first difference in line {line})"
