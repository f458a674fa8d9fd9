"""What a study would run: its cells, how far each is, and how long the rest will take."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import write_text
from kdbench.harness.identity import digest
from kdbench.harness.progress import duration
from kdbench.harness.provenance import source_sha256
from kdbench.harness.registry import METHODS
from kdbench.harness.study.definition import Cell, Study, cells_json, cells_of, expand
from kdbench.harness.study.estimate import Estimate, Estimates, total
from kdbench.harness.study.state import Place, State, state_of


class Planned(NamedTuple):
    """A cell of a plan."""

    cell: Cell
    state: State
    estimate: Estimate


def make_cells(study: Study, settings: Sequence[str], cache: Path) -> list[Cell]:
    """`expand`, remembered as long as neither the study nor our code changes.

    Checking a configuration needs the method's class, and that needs torch, which takes seconds.
    """
    name = digest([source_sha256(), study, list(settings)])[:32]
    path = cache / "studies" / f"{name}.json"
    named = {row.method or study.method for row in study.all_rows()}
    # a suite file and methods of others, in a file or installed, may be edited meanwhile
    others = study.suite.endswith((".yaml", ".yml")) or not named <= METHODS.keys()
    if not others and path.is_file():
        with contextlib.suppress(ValueError):
            return cells_of(path.read_text(encoding="utf-8"))
    cells = expand(study, settings)
    if not others:
        with contextlib.suppress(InputError):  # a full or read-only cache costs time, no more
            write_text(path, cells_json(cells))
    return cells


def make_plan(cells: Sequence[Cell], place: Place) -> list[Planned]:
    """How far each cell is; nothing is written and no model is loaded."""
    estimates = Estimates(place.runs_dir)
    return [Planned(cell, state_of(cell, place), estimates.of(cell)) for cell in cells]


def distinct(plan: Sequence[Planned]) -> list[Planned]:
    """The runs of a plan: cells with equal configurations are one."""
    return list({planned.cell.key: planned for planned in plan}.values())


def unfinished(plan: Sequence[Planned]) -> list[Planned]:
    """The runs of a plan that are not done."""
    return [planned for planned in distinct(plan) if planned.state.how != "cached"]


def render_plan(study: Study, plan: Sequence[Planned], jobs: int) -> str:
    """The plan as text."""
    rows = [("row", "seed", "run", "state", "time")]
    for cell, state, estimate in plan:
        missing = f": no {', '.join(state.missing)}" if state.missing else ""
        how = f"{state.how}{missing}"
        wait = "" if state.how == "cached" else _about(estimate)
        run = state.identity.id if state.identity else "named when begun"
        rows.append((cell.label, str(cell.seed), run, how, wait))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [study.title]
    for row in rows:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, row[4]]).rstrip())
    todo = unfinished(plan)
    runs = distinct(plan)
    sources = dict.fromkeys(planned.estimate.source for planned in todo)
    lines.append("")
    lines.append(f"{len(runs)} runs: {len(runs) - len(todo)} cached, {len(todo)} to do")
    if todo:
        seconds = total([planned.estimate for planned in todo], jobs)
        lines.append(f"about {duration(seconds)} with {jobs} at a time ({'; '.join(sources)})")
    return "\n".join(lines)


def plan_json(study: Study, plan: Sequence[Planned]) -> dict[str, Any]:
    """The plan as plain data."""
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
                "seconds": round(estimate.seconds, 1) if state.how != "cached" else 0.0,
                "estimated_from": estimate.source,
                "command": ["kdbench", "run", *cell.arguments],
            }
            for cell, state, estimate in plan
        ],
    }


def _about(estimate: Estimate) -> str:
    return f"about {duration(estimate.seconds)}" if estimate.seconds else "?"
