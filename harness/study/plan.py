"""What a study would run: its cells, how far each is, and how long the rest will take."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import write_bytes
from kdbench.harness.identity import digest
from kdbench.harness.own.settings import OWN
from kdbench.harness.own_methods import METHODS
from kdbench.harness.progress import duration
from kdbench.harness.provenance import source_sha256
from kdbench.harness.study.definition import CELLS, Cell, Study, expand
from kdbench.harness.study.estimates import Estimate, Estimates
from kdbench.harness.study.state import Place, State, state_of
from kdbench.reports.text.document import Document, Notes, Section, Table

DONE = Estimate(0.0, "it is done")


class PlannedCell(NamedTuple):
    """A cell, how far its run is, and how long it would take."""

    cell: Cell
    state: State
    estimate: Estimate


class Plan(NamedTuple):
    """Every cell of a study."""

    cells: list[PlannedCell]

    def runs(self) -> list[PlannedCell]:
        """Cells with equal configurations are one run."""
        return list({planned.cell.key: planned for planned in self.cells}.values())

    def unfinished(self) -> list[PlannedCell]:
        """The runs that are not done."""
        return [planned for planned in self.runs() if not planned.state.done]

    def progress(self) -> str:
        """How many runs there are, in a line."""
        runs, todo = len(self.runs()), len(self.unfinished())
        return f"{runs} runs: {runs - todo} cached, {todo} to do"

    def seconds(self, jobs: int) -> float:
        """About how long the rest takes, ``jobs`` at a time, but for runs of which nothing is known."""
        left = [planned.estimate.seconds or 0.0 for planned in self.unfinished()]
        return max(max(left, default=0.0), sum(left) / max(jobs, 1))

    def unknown(self) -> int:
        """Of how many unfinished runs it is not known how long they take."""
        return sum(planned.estimate.seconds is None for planned in self.unfinished())

    def about(self, jobs: int) -> str:
        """`seconds` and `unknown` in words."""
        return about(self.seconds(jobs), self.unknown(), len(self.unfinished()))


def about(seconds: float, unknown: int, runs: int) -> str:
    """About how long so many runs take, of which so many are not known."""
    if not unknown:
        return f"about {duration(seconds)}"
    if unknown == runs:
        return "nobody knows how long"
    return f"about {duration(seconds)} and {unknown} run{'s' * (unknown > 1)} of unknown length"


def make_cells(study: Study, settings: Sequence[str], cache: Path) -> list[Cell]:
    """`expand`, remembered as long as neither the study nor our code changes.

    Checking a configuration needs the method's class, and that needs torch, which takes seconds. Not
    remembered is what follows from files that may be edited meanwhile: suites and methods of others, and
    suite ``own``, which measures models and rows.
    """
    name = digest([source_sha256(), study, list(settings), os.getcwd()])[:32]
    path = cache / "studies" / f"{name}.json"
    named = {row.method or study.method for row in study.all_rows()}
    file = study.suite == OWN or study.suite.endswith((".yaml", ".yml"))
    others = file or not named <= METHODS.keys()
    if not others and path.is_file():
        with contextlib.suppress(ValueError):
            return CELLS.validate_json(path.read_bytes())
    cells = expand(study, settings)
    if not others:
        with contextlib.suppress(InputError):  # a full or read-only cache costs time, no more
            write_bytes(path, CELLS.dump_json(cells))
    return cells


def make_plan(cells: Sequence[Cell], place: Place) -> Plan:
    """How far each cell is; nothing is written and no model is loaded."""
    estimates = Estimates(place.runs_dir)
    states = [state_of(cell, place) for cell in cells]
    return Plan(
        [
            PlannedCell(cell, state, DONE if state.done else estimates.of(cell, state.trained))
            for cell, state in zip(cells, states, strict=True)
        ]
    )


def plan_document(study: Study, plan: Plan, jobs: int) -> Document:
    """Each run with its state, then how many are left and how long they will take."""
    rows = []
    for cell, state, estimate in plan.cells:
        missing = f": no {', '.join(state.missing)}" if state.missing else ""
        time = "?" if estimate.seconds is None else f"about {duration(estimate.seconds)}"
        run = state.identity.id if state.identity else "named when begun"
        wait = "" if state.done else time
        rows.append([cell.label, str(cell.seed), run, state.how + missing, wait])
    notes = [plan.progress()]
    if todo := plan.unfinished():
        sources = "; ".join(dict.fromkeys(planned.estimate.source for planned in todo))
        notes.append(f"{plan.about(jobs)}, {jobs} at a time ({sources})")
    table = Table(["row", "seed", "run", "state", "time"], rows, keys=2)
    return Document("", [Section(study.title, [table, Notes(notes)])])


def plan_counts(plan: Plan, jobs: int) -> dict[str, Any]:
    """How much there is to do, as plain data."""
    runs, todo = len(plan.runs()), len(plan.unfinished())
    seconds = round(plan.seconds(jobs), 1)
    return {"runs": runs, "to_do": todo, "seconds": seconds, "unknown": plan.unknown()}


def plan_json(
    study: Study, plan: Plan, arguments: Callable[[Cell], Sequence[str]]
) -> dict[str, Any]:
    """The plan as plain data.

    Args:
        study: whose plan it is.
        plan: its cells.
        arguments: a cell -> the command line that makes its run, without ``kdbench``.
    """
    return {
        "title": study.title,
        "base": study.base,
        "runs": [
            {
                "label": cell.label,
                "seed": cell.seed,
                "id": state.identity.id if state.identity else None,
                "folder": str(state.run.path) if state.run else None,
                "state": state.how,
                "missing": list(state.missing),
                "seconds": None if estimate.seconds is None else round(estimate.seconds, 1),
                "estimated_from": estimate.source,
                "command": ["kdbench", *arguments(cell)],
            }
            for cell, state, estimate in plan.cells
        ],
    }
