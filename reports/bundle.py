"""``kdbench bundle``: finished runs into one file, with the few answers that their board's page shows."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.files.bundle.packing import pack
from kdbench.harness.files.records import Record
from kdbench.reports.board import build
from kdbench.reports.page.samples import shown_answers
from kdbench.reports.runs import damaged, finished_runs

PROMPTS = 24
"""Of each task, whose answers are kept: the page made of a bundle shows these."""


class Bundled(Record):
    """What was written."""

    file: str
    size: int
    runs: list[str]
    answers: int
    """Lines of answers in it."""
    left_out: list[str]


class _Kept(NamedTuple):
    answers: dict[Path, bytes]
    lines: int


def write_bundle(
    paths: Iterable[Path | str], out: Path, *, answers: bool = True, prompts: int = PROMPTS
) -> Bundled:
    """Writes the finished runs under ``paths`` into a bundle.

    Args:
        paths: run folders, folders of runs, bundles.
        out: the file.
        answers: keep those that the page of a board of these runs shows first.
        prompts: of each task, whose answers are kept.

    Raises:
        InputError: no finished run, or a file that cannot be read or written.
    """
    places = list(paths)
    runs, left_out = finished_runs(places)
    kept = _shown(places, prompts) if answers else _Kept({}, 0)
    size = pack([run.folder for run in runs], out, kept.answers)
    return Bundled(
        file=str(out),
        size=size,
        runs=[run.folder.name for run in runs],
        answers=kept.lines,
        left_out=damaged(left_out),
    )


def _shown(places: list[Path | str], prompts: int) -> _Kept:
    """The lines that the page of a board of all these runs takes its answers from."""
    built = build(places)
    kept: dict[Path, dict[str, bytes]] = {}
    for table, found in zip(built.board.tables, built.found, strict=True):
        for file, lines in shown_answers(table, found, prompts).items():
            kept.setdefault(file, {}).update(lines)
    answers = {
        file: b"".join(line + b"\n" for line in lines.values()) for file, lines in kept.items()
    }
    return _Kept(answers, sum(map(len, kept.values())))
