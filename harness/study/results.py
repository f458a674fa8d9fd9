"""What a study found, as files: a table of differences to the base, or a board if it has none."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.study.definition import Study
from kdbench.harness.study.driver import Failure
from kdbench.harness.study.plan import Planned
from kdbench.harness.study.state import Place


class Results(NamedTuple):
    """A table for the terminal and the same as plain data; the files are written."""

    terminal: str
    document: dict[str, Any]


def make_results(
    study: Study, plan: Sequence[Planned], place: Place, out: Path, failures: Sequence[Failure]
) -> Results:
    """Writes ``table.{md,tex,csv,json}`` and the figure into ``out``."""
    folders = finished(plan)
    if not folders:
        return Results("no run of this study is finished yet\n", {"board": None})
    return _board(folders, place, out)


def finished(plan: Sequence[Planned]) -> list[Path]:
    """Folders of runs that have results."""
    found = {p.state.folder: None for p in plan if p.state.folder is not None}
    return [folder for folder in found if (folder / "summary.json").is_file()]


def _board(folders: list[Path], place: Place, out: Path) -> Results:
    from kdbench.reports.board import leaderboard

    references = sorted(
        folder
        for folder in place.runs_dir.glob("eval-*")
        if (folder / "summary.json").is_file() and _suite(folder) == _suite(folders[0])
    )
    paths = [*references, *folders]
    for kind, ending in (("md", "md"), ("latex", "tex"), ("csv", "csv"), ("json", "json")):
        leaderboard(paths, kind, out=out / f"table.{ending}")  # type: ignore[arg-type]
    return Results(
        leaderboard(paths, "terminal"), {"board": json.loads(leaderboard(paths, "json"))}
    )


def _suite(folder: Path) -> str:
    from kdbench.reports.load import read_summary

    return read_summary(folder).run.suite
