"""``kdbench watch``: a run, or all runs of a study, as they go on."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from kdbench.harness.errors import InputError
from kdbench.harness.printing import printable, unguarded
from kdbench.harness.verbs import options

if TYPE_CHECKING:
    from kdbench.harness.files.run_folder import RunFolder
    from kdbench.reports.run.status import Status

GRACE = {"run": 10.0, "study": 90.0}
"""Seconds in which nobody need hold a run: between its stages, and while a study starts its next one."""
PLAIN_EVERY = 10.0
"""Seconds between lines about a run that goes on, where no person looks."""


class Look(NamedTuple):
    """What is seen at one moment: runs that were begun, and how many of a study were not yet."""

    runs: "list[Status]"
    waiting: int = 0

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.waiting and all(each.state == "done" for each in self.runs)

    @property
    def running(self) -> bool:
        """Whether a live process holds one of the runs."""
        return any(each.state == "running" for each in self.runs)


def watch(
    what: Annotated[
        str, typer.Argument(help="Run folder, its name (or a part), a folder of runs, or a study.")
    ],
    runs_dir: options.RunsDir = options.RUNS,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between looks.")] = 2.0,
    suite: Annotated[str | None, typer.Option(help="Of a study, as it was started.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Of a study, as it was started.")] = None,
    set_: options.Set = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
) -> None:
    """Watch runs until they are done; exit 1 if they stop before that.

    On a terminal a table that renews itself, elsewhere a line where something changed.
    """
    changes = {"suite": suite, "seeds": options.number_list(seeds, "--seeds")}
    kind, look = _looker(what, runs_dir, changes, tuple(set_ or ()), (data_dir, device))
    screen = unguarded(sys.stdout)
    shown = _live if screen.isatty() else _lines
    last = shown(looks(look, every, GRACE[kind]))
    if last.done:
        return
    missing = [each.run for each in last.runs if each.state != "done"]
    waiting = [f"{last.waiting} not begun"] if last.waiting else []
    typer.echo(f"nobody works on it any more: {', '.join([*missing, *waiting])}", err=True)
    raise typer.Exit(1)


def looks(look: Callable[[], Look], every: float, grace: float) -> Iterator[Look]:
    """Looks again and again, until all is done or nobody has worked on it for a while."""
    seen, worked = time.monotonic(), False
    while True:
        found = look()
        yield found
        now = time.monotonic()
        if found.running:
            seen, worked = now, True
        # an ending that was just written down needs no patience, unless others may follow
        told = worked and not found.waiting and not any(e.state == "unfinished" for e in found.runs)
        if found.done or (not found.running and (told or now - seen >= grace)):
            return
        time.sleep(every)


def _looker(
    what: str,
    runs_dir: Path,
    changes: Mapping[str, object],
    settings: tuple[str, ...],
    where: tuple[Path | None, str],
) -> tuple[str, Callable[[], Look]]:
    """What kind of thing is watched, and how it is looked at."""
    from kdbench.harness.files.run_folder import RunFolder, find_runs
    from kdbench.harness.files.shipped import STUDIES
    from kdbench.reports.run.status import statuses

    exact = options.exact_run(what, runs_dir)
    if exact is None and (what in STUDIES.names() or what.endswith((".yaml", ".yml"))):
        return "study", _study(what, runs_dir, changes, settings, where)
    if exact is None and Path(what).is_dir() and not RunFolder(Path(what)).begun():
        if not find_runs([what]):
            raise InputError(f"no run in {what}; start one with: kdbench run")
        return "study", lambda: Look(statuses(find_runs([what])))
    run = exact or options.named_run(what, runs_dir)
    return "run", lambda: Look(statuses([run]))


def _study(
    name: str,
    runs_dir: Path,
    changes: Mapping[str, object],
    settings: tuple[str, ...],
    where: tuple[Path | None, str],
) -> Callable[[], Look]:
    options.calm_libraries()
    from kdbench.harness.contents import Circumstances
    from kdbench.harness.files.folders import cache_folder
    from kdbench.harness.study.definition import changed, load_study
    from kdbench.harness.study.plan import make_cells
    from kdbench.harness.study.state import Place, state_of
    from kdbench.reports.run.status import statuses

    data_dir, device = where
    place = Place(runs_dir, Circumstances(cache_folder(), device, data_dir))
    cells = make_cells(changed(load_study(name), changes), settings, place.where.cache)
    unlike = list({cell.key: cell for cell in cells}.values())

    def look() -> Look:
        states = [state_of(cell, place) for cell in unlike]
        begun: list[RunFolder] = [s.run for s in states if s.run and s.run.config.exists()]
        names = {s.run.name for s in states if s.run and s.done}
        # a run whose training is over may still lack an evaluation that the study asks for
        found = [
            each._replace(state="unfinished")
            if each.state == "done" and each.run not in names
            else each
            for each in statuses(begun)
        ]
        return Look(found, len(unlike) - len(begun))

    return look


def _live(found: Iterator[Look]) -> Look:
    """A table in place of the one before."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from kdbench.reports.run.status import status_document
    from kdbench.reports.text.terminal import Terminal

    last = Look([])
    with Live(console=Console(file=unguarded(sys.stdout)), auto_refresh=False) as live:
        for last in found:
            width = shutil.get_terminal_size().columns
            text = Terminal(width).write(status_document(last.runs)).rstrip()
            more = f"\n\n{last.waiting} not begun" if last.waiting else ""
            live.update(Text(text + more, no_wrap=True), refresh=True)
    return last


def _lines(found: Iterator[Look]) -> Look:
    """A line for each run where something changed."""
    told: dict[str, tuple[str, int | None, float]] = {}
    last, waiting = Look([]), -1
    for last in found:
        now = time.monotonic()
        for each in last.runs:
            state, step, when = told.get(each.run, ("", None, -PLAIN_EVERY))
            if each.state == state and (each.step == step or now - when < PLAIN_EVERY):
                continue
            told[each.run] = (each.state, each.step, now)
            print(printable(_line(each)), flush=True)
        if last.waiting not in (0, waiting):
            print(f"{last.waiting} not begun", flush=True)
        waiting = last.waiting
    return last


def _line(status: "Status") -> str:
    from kdbench.reports.run.status import left_text, step_text

    step, left = step_text(status), left_text(status)
    facts: Sequence[str] = (step and f"step {step}", left and f"{left} left", status.score)
    about = status.about and f" ({status.about})"
    return f"{status.run}: {', '.join([status.state, *filter(None, facts)])}{about}"
