"""``kdbench distill`` as a list of steps: understand, say so, train what is missing, compare."""

import shlex
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kdbench.harness.contents import Circumstances
from kdbench.harness.errors import CellFailed
from kdbench.harness.files.folders import cache_folder
from kdbench.harness.files.store import make_folder, write_text
from kdbench.harness.study.command import make_missing
from kdbench.harness.study.definition import Study
from kdbench.harness.study.distill.asked import without_columns
from kdbench.harness.study.distill.outcome import Outcome, outcome, outcome_document
from kdbench.harness.study.distill.preparation import (
    DistillRequest,
    Prepared,
    keep_chosen,
    prepare_distillation,
    task_name,
    write_split,
)
from kdbench.harness.study.distill.telling import understanding, understood
from kdbench.harness.study.driver import Failure
from kdbench.harness.study.plan import make_cells, make_plan
from kdbench.harness.study.results import make_results, references
from kdbench.harness.study.state import Place
from kdbench.reports.board import FILES
from kdbench.reports.text.terminal import Terminal, show

SUITE = "suite.yaml"
"""All settings of a comparison, in its folder: a suite like any other."""
WIDTH = 80


class Distilled(NamedTuple):
    """A comparison that ended.

    Attributes:
        outcome: who stands where.
        failures: runs that could not be made.
        folders: of all runs and reference rows.
        task: what the test rows are called.
        page: the page with everything in it.
    """

    outcome: Outcome
    failures: list[Failure]
    folders: list[Path]
    task: str
    page: Path

    def as_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return result_json(self)


def distill_command(request: DistillRequest, *, dry_run: bool) -> Distilled | None:
    """Understands, trains what is missing and compares; None: only understood (``dry_run``).

    Raises:
        InputError: whatever cannot be had, understood or used, before anything is trained.
        CellFailed: no method could be trained.
    """
    prepared = prepare_distillation(request)
    if request.talkative:
        show(understanding(request, prepared), most=WIDTH)
    if request.told is not None:
        request.told(understood(request, prepared))
    if dry_run:
        return None
    study = write_study(request, prepared)
    written = request.test is None
    settings = without_columns(request.making.settings, written=written)
    making = replace(request.making, settings=settings)
    place = Place(making.runs_dir, Circumstances(cache_folder(), making.device, making.data_dir))
    cells = make_cells(study, making.settings, place.where.cache)
    failures = make_missing(making, make_plan(cells, place), place, request.out)
    plan = make_plan(cells, place)
    make_results(study, plan, request.out, failures, place)
    finished = [p.state.run.path for p in plan.cells if p.state.done and p.state.run]
    if not finished:
        raise CellFailed(f"no method could be trained: {_said(failures)}")
    folders, task = [*references(plan.cells), *dict.fromkeys(finished)], task_name(request)
    found = Distilled(outcome(folders, task), failures, folders, task, page_of(request.out))
    if request.talkative:
        show(outcome_document(found.outcome), most=WIDTH)
        print("\n".join(_lines(found)))
    return found


def write_study(request: DistillRequest, prepared: Prepared) -> Study:
    """Writes the split and the suite into the request's folder; returns the study that trains by it."""
    make_folder(request.out)
    write_split(request, prepared)
    text = yaml.safe_dump(prepared.suite, sort_keys=False, allow_unicode=True)
    why = "".join(f"#   {c.key}: {c.value} ({c.why})\n" for c in prepared.choices)
    suite = request.out.resolve() / SUITE
    write_text(suite, f"# Made by kdbench distill. Chosen, and why:\n{why}{text}")
    keep_chosen(request, prepared)
    methods = tuple(name for name, _ in prepared.methods)
    return Study(title="Distillation", suite=str(suite), seeds=request.seeds, methods=methods)


def _said(failures: list[Failure]) -> str:
    return "; ".join(f"{f.name}: {f.reason} (log: {f.log})" for f in failures) or "see the logs"


def page_of(out: Path) -> Path:
    """The page of a comparison's folder."""
    return out / "board" / FILES["html"]


def _lines(found: Distilled) -> list[str]:
    """The verdict, where things are, and how to go on."""
    student = found.outcome.student
    sentences = [
        *(f"failed: {f.name}: {f.reason} (log: {f.log})" for f in found.failures),
        *found.outcome.lines,
    ]
    return [
        *(
            textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
            for text in sentences
        ),
        f"student: {_near(student)}",
        f"page: {_near(found.page)}",
        f"push: hf upload YOUR_NAME/YOUR_MODEL {shlex.quote(_near(student))}",
    ]


def _near(path: Path) -> str:
    """A path as short as it can be from here."""
    here = Path.cwd()
    whole = path.resolve()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def said(found: Distilled) -> str:
    """The table and the lines below it, as text."""
    table = Terminal(WIDTH).write(outcome_document(found.outcome)).strip("\n")
    return "\n".join([table, *_lines(found)])


def result_json(found: Distilled) -> dict[str, Any]:
    """The result as plain data."""
    outcome = found.outcome
    return {
        "metric": outcome.metric,
        "decided": outcome.decided,
        "best": outcome.best,
        "winner": str(outcome.winner),
        "student": str(outcome.student),
        "page": str(found.page),
        "lines": outcome.lines,
        "failures": [
            {"run": f.name, "reason": f.reason, "log": str(f.log)} for f in found.failures
        ],
        "rows": [
            {
                "label": row.label,
                "method": row.method,
                "reference": row.reference,
                **row.score.model_dump(include={"mean", "low", "high", "n_prompts"}),
                "seconds": row.seconds,
                "runs": [folder.name for folder in row.folders],
            }
            for row in outcome.rows
        ],
    }
