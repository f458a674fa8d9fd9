"""Runs by what people call them."""

from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.harness.errors import InputError, unknown

if TYPE_CHECKING:
    from kdbench.harness.files.run_folder import RunFolder


def exact_run(name: Path | str, runs_dir: Path) -> "RunFolder | None":
    """A run folder by its path or whole name."""
    from kdbench.harness.files.run_folder import RunFolder

    places = (RunFolder(Path(name)), RunFolder(runs_dir / name))
    return next((run for run in places if run.begun()), None)


def named_run(name: Path | str, runs_dir: Path) -> "RunFolder":
    """A run folder by path, name, or a part of its name that only one has.

    Args:
        name: of the run.
        runs_dir: folder of runs, or a bundle.

    Raises:
        InputError: none, several, or a bundle that cannot be read.
    """
    from kdbench.harness.files.bundle.opening import opened
    from kdbench.harness.files.run_folder import runs_in

    if exact := exact_run(name, runs_dir):
        return exact
    place = opened(runs_dir)
    if place != runs_dir and (exact := exact_run(name, place)):
        return exact
    runs = runs_in(place)
    fitting = [run for run in runs if str(name) in run.name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(run.name for run in fitting)
        raise InputError(f"{name} fits several runs ({names}); give more of the name")
    if not runs:
        raise InputError(f"no run folder {name}, and none in {runs_dir}; see: kdbench ls runs")
    raise unknown("run", str(name), [run.name for run in runs], f" in {runs_dir}")
