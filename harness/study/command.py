"""``kdbench ablate`` as a list of steps: expand, look, run what is missing, make the table."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdbench.harness.config import slug
from kdbench.harness.contents import Circumstances
from kdbench.harness.files.bundle.opening import opened
from kdbench.harness.files.folders import cache_folder
from kdbench.harness.files.store import make_folder
from kdbench.harness.printing import visible_json
from kdbench.harness.progress import Progress
from kdbench.harness.study.bundled import bundled_plan
from kdbench.harness.study.definition import Cell, Study, changed, load_study
from kdbench.harness.study.driver import Driver, Failure
from kdbench.harness.study.executors import make_executor
from kdbench.harness.study.plan import Plan, make_cells, make_plan, plan_document, plan_json
from kdbench.harness.study.question import folder_for
from kdbench.harness.study.results import Results, make_results
from kdbench.harness.study.state import Place
from kdbench.reports.text.terminal import show


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRequest:
    """What the command line asks for.

    Args:
        name: of the study, or its file.
        changes: fields of the study that are replaced.
        settings: ``--set``, over the study's own.
        runs_dir, data_dir, device, accept_drift: as of ``kdbench run``; runs may be in a bundle.
        executor, jobs: who runs how many at once.
        keep_going: go on after a failure.
        out: folder of tables and logs; None: named by the study.
        json_output: print one JSON document.
        quiet: no progress lines.
    """

    name: str
    changes: Mapping[str, Any]
    settings: tuple[str, ...]
    runs_dir: Path
    data_dir: Path | None
    device: str
    accept_drift: bool
    executor: str
    jobs: int | None
    keep_going: bool
    out: Path | None
    json_output: bool
    quiet: bool


def ablate_command(request: StudyRequest, *, dry_run: bool) -> int:
    """Shows the plan, or runs it and writes the tables; returns the exit code.

    Where the runs are in a bundle nothing is run: the tables are those of what is there.
    """
    study = changed(load_study(request.name), request.changes)
    where = Circumstances(cache_folder(), request.device, request.data_dir)
    place = Place(opened(request.runs_dir), where)
    cells = make_cells(study, request.settings, where.cache)
    bundled = place.runs_dir != request.runs_dir
    plan = bundled_plan(cells, place.runs_dir) if bundled else make_plan(cells, place)
    if dry_run:
        _show_plan(request, study, plan, place)
        return 0
    out = folder_for(_asked(request, study), _default_out(request, study), request.out)
    failures = []
    if not bundled:
        failures = make_missing(request, plan, place, out)
        plan = make_plan(cells, place)
    results = make_results(study, plan, out, failures, None if bundled else place, request.settings)
    show_results(request, results, failures, out)
    return 1 if failures else 0


def _default_out(request: StudyRequest, study: Study) -> Path:
    name = slug(request.name.removesuffix(".yaml").removesuffix(".yml"))
    if "suite" in request.changes:
        name += f"-{slug(study.suite)}"
    return request.runs_dir.parent / "studies" / name


def _asked(request: StudyRequest, study: Study) -> dict[str, Any]:
    """What decides the table, but for the training seeds: more of them make the same one whole."""
    return {
        "study": slug(request.name),
        "title": study.title,
        "suite": study.suite,
        "tasks": study.tasks,
        "settings": request.settings,
    }


def _show_plan(request: StudyRequest, study: Study, plan: Plan, place: Place) -> None:
    if request.json_output:
        arguments = partial(worker_arguments, place=place, accept_drift=request.accept_drift)
        print(visible_json(plan_json(study, plan, arguments), indent=2))
        return
    show(plan_document(study, plan, jobs_of(request)))
    if plan.unfinished():
        again = [a for a in sys.argv[1:] if a != "--dry-run"]
        print(f"next: {shlex.join(['kdbench', *again])}")


def jobs_of(request: StudyRequest) -> int:
    """How many runs there would be at once; of a cluster, which is not asked here, those that are wanted.

    Raises:
        InputError: this machine has not what is wanted.
    """
    if request.executor.partition(":")[0] != "local":
        return request.jobs or 1
    return make_executor(request.executor, request.jobs, Path(), request.device).jobs


def make_missing(
    request: StudyRequest, plan: Plan, place: Place, out: Path, *, results: tuple[str, ...] = ()
) -> list[Failure]:
    """Makes the runs that are not done; returns those that failed.

    Args:
        request: who makes how many at once, and what a failure stops.
        plan: all runs.
        place: where they are made.
        out: folder of their logs.
        results: beginnings of reasons that stop nothing.
    """
    progress = Progress(quiet=request.quiet or request.json_output)
    progress.say(plan.progress())
    todo = plan.unfinished()
    if not todo:
        return []
    make_folder(place.runs_dir)
    make_folder(place.where.cache)
    executor = make_executor(request.executor, request.jobs, out, place.where.device)
    progress.say(f"{plan.about(executor.jobs)} ({todo[0].estimate.source})")

    arguments = partial(worker_arguments, place=place, accept_drift=request.accept_drift)
    driver = Driver(place, executor, arguments, progress.say, request.keep_going)
    driver.results = results
    cells, logs = [planned.cell for planned in todo], make_folder(out / "logs").resolve()
    if not progress.moving:  # the driver's own lines say as much
        return driver.run(cells, logs)
    with progress.stage("study", len(cells), unit="run") as live:
        driver.ended = live.update
        return driver.run(cells, logs)


def worker_arguments(cell: Cell, *, place: Place, accept_drift: bool) -> list[str]:
    """The command line of the process that makes a cell's run, wherever it is started; without kdbench."""
    arguments = [cell.verb, *cell.arguments, "--runs-dir", str(place.runs_dir.resolve())]
    if place.where.data_dir is not None:
        arguments += ["--data-dir", str(place.where.data_dir)]
    arguments += ["--device", place.where.device]
    return [*arguments, "--accept-drift"] if accept_drift else arguments


def show_results(
    request: StudyRequest, results: Results, failures: list[Failure], out: Path
) -> None:
    """The table, what failed, and what to type next."""
    if request.json_output:
        listed = [{"run": f.name, "reason": f.reason, "log": str(f.log)} for f in failures]
        print(visible_json(results.data | {"failures": listed}, indent=2))
        return
    show(results.shown)
    if failures:
        print(f"failed: {len(failures)}")
        for failure in failures:
            print(f"  {failure.name}: {failure.reason} (log: {failure.log})")
    print(f"folder: {out}")
    if failures:
        print(f"next: {shlex.join(['kdbench', *sys.argv[1:]])}")
    elif results.trained:
        print(f"next: kdbench eval {shlex.quote(str(results.trained[0]))} --tasks TASKS")
    else:
        print(f"next: kdbench leaderboard {shlex.quote(str(request.runs_dir))}")
