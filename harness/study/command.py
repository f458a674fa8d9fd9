"""``kdbench ablate`` as a list of steps: expand, look, run what is missing, make the table."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from kdbench.harness.config import slug
from kdbench.harness.contents import Circumstances
from kdbench.harness.errors import InputError
from kdbench.harness.files.folders import cache_folder
from kdbench.harness.files.store import make_folder
from kdbench.harness.progress import Progress, duration
from kdbench.harness.study.definition import Cell, Study, load_study
from kdbench.harness.study.driver import Driver, Failure
from kdbench.harness.study.estimate import total
from kdbench.harness.study.executors import make_executor
from kdbench.harness.study.plan import (
    Planned,
    distinct,
    make_cells,
    make_plan,
    plan_json,
    render_plan,
    unfinished,
)
from kdbench.harness.study.results import Results, make_results
from kdbench.harness.study.state import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for; None: as the study says."""

    study: str
    suite: str | None
    seeds: list[int] | None
    tasks: list[str] | None
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


def ablate_command(wanted: Wanted, *, dry_run: bool) -> int:
    """Shows the plan, or runs it and writes the tables; returns the exit code."""
    study = _study(wanted)
    if wanted.data_dir is not None and not wanted.data_dir.is_dir():
        raise InputError(f"no data folder {wanted.data_dir}; give an existing one by --data-dir")
    place = Place(wanted.runs_dir, Circumstances(cache_folder(), wanted.device, wanted.data_dir))
    cells = make_cells(study, wanted.settings, place.where.cache)
    plan = make_plan(cells, place)
    if dry_run:
        _show_plan(wanted, study, plan)
        return 0
    out = make_folder(wanted.out or _default_out(wanted, study))
    failures = _run(wanted, plan, place, out)
    results = make_results(study, make_plan(cells, place), place, out, failures)
    _show(wanted, results, failures, out)
    return 1 if failures else 0


def _study(wanted: Wanted) -> Study:
    """The study with the command line's changes."""
    study = load_study(wanted.study)
    changes = {"suite": wanted.suite, "seeds": wanted.seeds, "tasks": wanted.tasks}
    asked = {key: value for key, value in changes.items() if value is not None}
    return Study.model_validate(study.model_dump() | asked) if asked else study


def _default_out(wanted: Wanted, study: Study) -> Path:
    name = slug(wanted.study.removesuffix(".yaml").removesuffix(".yml"))
    if wanted.suite is not None:
        name += f"-{slug(study.suite)}"
    return wanted.runs_dir.parent / "studies" / name


def _show_plan(wanted: Wanted, study: Study, plan: list[Planned]) -> None:
    if wanted.json_output:
        print(json.dumps(plan_json(study, plan), indent=2, ensure_ascii=False))
        return
    print(render_plan(study, plan, wanted.jobs or 1))
    if unfinished(plan):
        again = [a for a in sys.argv[1:] if a != "--dry-run"]
        print(f"next: {shlex.join(['kdbench', *again])}")


def _run(wanted: Wanted, plan: list[Planned], place: Place, out: Path) -> list[Failure]:
    """Makes what is missing."""
    progress = Progress(quiet=wanted.json_output)
    todo, runs = unfinished(plan), distinct(plan)
    progress.say(f"{len(runs)} runs: {len(runs) - len(todo)} cached, {len(todo)} to do")
    if not todo:
        return []
    make_folder(place.runs_dir)
    make_folder(place.where.cache)
    executor = make_executor(wanted.executor, wanted.jobs, out, place.where.device)
    seconds = total([planned.estimate for planned in todo], executor.jobs)
    progress.say(f"about {duration(seconds)} ({todo[0].estimate.source})" if seconds else "")

    def arguments(cell: Cell) -> list[str]:
        return worker_arguments(cell, place, accept_drift=wanted.accept_drift)

    driver = Driver(place, executor, arguments, progress.say, wanted.keep_going)
    return driver.run([planned.cell for planned in todo], make_folder(out / "logs").resolve())


def worker_arguments(cell: Cell, place: Place, *, accept_drift: bool) -> list[str]:
    """The command line of the process that makes a cell's run, wherever it is started."""
    arguments = ["run", *cell.arguments, "--runs-dir", str(place.runs_dir.resolve())]
    if place.where.data_dir is not None:
        arguments += ["--data-dir", str(place.where.data_dir)]
    arguments += ["--device", place.where.device]
    return [*arguments, "--accept-drift"] if accept_drift else arguments


def _show(wanted: Wanted, results: Results, failures: list[Failure], out: Path) -> None:
    if wanted.json_output:
        listed = [{"run": f.name, "reason": f.reason, "log": str(f.log)} for f in failures]
        print(json.dumps(results.document | {"failures": listed}, indent=2, ensure_ascii=False))
        return
    print(results.terminal.rstrip("\n"))
    if failures:
        print(f"failed: {len(failures)}")
        for failure in failures:
            print(f"  {failure.name}: {failure.reason} (log: {failure.log})")
    print(f"folder: {out}")
    if failures:
        print(f"next: {shlex.join(['kdbench', *sys.argv[1:]])}")
    else:
        print(f"next: kdbench leaderboard {shlex.quote(str(wanted.runs_dir))}")
