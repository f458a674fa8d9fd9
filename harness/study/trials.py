"""The trials of a search are made: one that diverges is a result, and is not made again."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdbench.harness.errors import DIVERGED
from kdbench.harness.files.store import read_json, write_json
from kdbench.harness.provenance import source_sha256
from kdbench.harness.study.command import StudyRequest, make_missing
from kdbench.harness.study.definition import Cell
from kdbench.harness.study.driver import Failure, log_name
from kdbench.harness.study.plan import Plan, PlannedCell, make_plan
from kdbench.harness.study.state import Place

NAME = "diverged.json"
"""In the folder of the search: runs whose training diverged, and why."""


def broken(failures: Iterable[Failure]) -> list[Failure]:
    """Those that say nothing of their settings: all but diverged ones."""
    return [failure for failure in failures if not failure.reason.startswith(DIVERGED)]


def make_trials(
    making: StudyRequest, cells: Sequence[Cell], place: Place, out: Path
) -> tuple[Plan, list[Failure]]:
    """Makes what is missing of trials; returns how far all are, and those that have no student.

    A run that diverged under this code of kdbench is kept in mind, and is made again only after its folder
    was taken away.
    """
    plan = make_plan(cells, place)
    left, before = without_diverged(plan, out)
    failures = make_missing(making, left, place, out, results=(DIVERGED,))
    plan = make_plan(cells, place)
    runs = {planned.cell.name: _run(planned) for planned in plan.cells}
    fresh = {runs[f.name]: f.reason for f in failures if f.reason.startswith(DIVERGED)}
    if fresh := {run: why for run, why in fresh.items() if run}:
        write_json(out / NAME, {"code": source_sha256(), "runs": _read(out) | fresh})
    logs = {planned.cell.name: out / "logs" / log_name(planned.cell) for planned in plan.cells}
    return plan, [*failures, *(Failure(name, why, logs[name]) for name, why in before.items())]


def without_diverged(plan: Plan, out: Path) -> tuple[Plan, dict[str, str]]:
    """A plan without the runs that are known to diverge, and why these did, by name."""
    known = _read(out)
    before = {p.cell.name: why for p in plan.unfinished() if (why := known.get(_run(p), ""))}
    return Plan([planned for planned in plan.cells if planned.cell.name not in before]), before


def _run(planned: PlannedCell) -> str:
    """The name of a run that has begun."""
    run = planned.state.run
    return run.name if run is not None and run.begun() else ""


def _read(out: Path) -> dict[str, str]:
    """Why runs diverged, by name; of another code of kdbench nothing."""
    file = out / NAME
    if not file.is_file():
        return {}
    found: dict[str, Any] = read_json(file, "take it away, and these runs are tried again")
    return dict(found["runs"]) if found.get("code") == source_sha256() else {}
