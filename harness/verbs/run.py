"""``kdbench run`` and ``kdbench train``: a method, from its pair to its table or its student."""

from typing import TYPE_CHECKING, Any

import typer

from kdbench.harness.verbs import options

if TYPE_CHECKING:
    from kdbench.harness.config import RunConfig


def run(
    method: options.MethodName,
    suite: options.Suite = "mini",
    tasks: options.Tasks = None,
    limit: options.Limit = None,
    protocol: options.Protocol = None,
    teacher: options.Teacher = None,
    student: options.Student = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    runs_dir: options.RunsDir = options.RUNS,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    accept_drift: options.AcceptDrift = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a student by a method, evaluate it and its references, and print the comparison.

    The same command continues a run that was interrupted.
    """
    options.calm_libraries()
    flags = {
        "tasks.names": options.name_list(tasks, "--tasks"),
        "tasks.limit": limit,
        "tasks.protocol": protocol,
        **pair_flags(teacher, student, seed),
    }
    request = options.request(
        resolved(suite, method, set_, flags),
        runs_dir=runs_dir,
        data_dir=data_dir,
        device=device,
        accept_drift=accept_drift,
        json_output=json_output,
        quiet=quiet,
    )
    from kdbench.harness.runner import run_command

    raise typer.Exit(run_command(request))


def train(
    method: options.MethodName,
    suite: options.Suite = "mini",
    teacher: options.Teacher = None,
    student: options.Student = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    runs_dir: options.RunsDir = options.RUNS,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    accept_drift: options.AcceptDrift = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a student without evaluating it; ``run`` with the same settings goes on from there."""
    options.calm_libraries()
    request = options.request(
        resolved(suite, method, set_, pair_flags(teacher, student, seed)),
        runs_dir=runs_dir,
        data_dir=data_dir,
        device=device,
        accept_drift=accept_drift,
        json_output=json_output,
        quiet=quiet,
    )
    from kdbench.harness.runner import train_command

    raise typer.Exit(train_command(request))


def pair_flags(teacher: str | None, student: str | None, seed: int | None) -> dict[str, Any]:
    """Flags of the pair and the seed by configuration key."""
    return {"pair.teacher": teacher, "pair.student": student, "train.seed": seed}


def resolved(
    suite: str, method: str, assignments: list[str] | None, flags: dict[str, Any]
) -> "RunConfig":
    """The configuration a command line asks for, its tasks checked where that is cheap."""
    from kdbench.harness.resolve import resolve

    return resolve(suite=suite, method=method, assignments=assignments or (), flags=flags)
