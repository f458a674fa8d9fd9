"""``kdbench eval`` and ``kdbench score``: evaluations of any model, numbers of stored samples."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.harness.verbs import options
from kdbench.harness.verbs.run import resolved

if TYPE_CHECKING:
    from kdbench.harness.config import RunConfig


def evaluate(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder whose student gets more tasks.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Instead: hub id, folder, .gguf, or teacher, init, truth of the suite."),
    ] = None,
    suite: options.Suite = "mini",
    tasks: options.Tasks = None,
    limit: options.Limit = None,
    protocol: options.Protocol = None,
    probes: options.Probes = None,
    teacher: Annotated[
        str | None, typer.Option(help="For exposure bias: named like --model.")
    ] = None,
    include_path: options.IncludePath = None,
    set_: options.Set = None,
    runs_dir: options.RunsDir = options.RUNS,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    accept_drift: options.AcceptDrift = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a trained run or any model on tasks, adding to what is there."""
    from kdbench.harness.errors import InputError

    options.calm_libraries()
    if (run is None) == (model is None):
        raise InputError("give either a run folder or --model, as in: kdbench eval --model teacher")
    flags = {
        "tasks.names": options.name_list(tasks, "--tasks"),
        "tasks.limit": limit,
        "tasks.protocol": protocol,
        "tasks.probes": options.name_list(probes, "--probes"),
        "tasks.include_path": None if include_path is None else str(include_path.resolve()),
    }
    if run is not None:
        config = changed(run, set_ or [], flags)
        runs_dir = run.resolve().parent
    else:
        config = resolved(suite, "sft", set_, flags)  # an evaluation uses no method's settings
    request = options.request(
        config,
        model=model,
        teacher=teacher,
        run=run,
        runs_dir=runs_dir,
        data_dir=data_dir,
        device=device,
        accept_drift=accept_drift,
        json_output=json_output,
        quiet=quiet,
    )
    from kdbench.harness.runner import eval_command

    raise typer.Exit(eval_command(request))


def changed(run: Path, assignments: list[str], flags: dict[str, Any]) -> "RunConfig":
    """The stored configuration of a run with other tasks, decoding or judge."""
    from kdbench.harness.config import RunConfig
    from kdbench.harness.errors import InputError
    from kdbench.harness.files.store import read_record
    from kdbench.harness.resolve import overlay

    if not (run / "config.json").is_file():
        raise InputError(f"{run} is no run folder (it has no config.json); see: kdbench ls runs")
    stored = read_record(run / "config.json", RunConfig)
    return overlay(stored, assignments, flags, sections=("tasks", "generate", "judge"))


def score(
    runs: options.RunFolders = None,
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> None:
    """Score stored samples again, without a model or a GPU."""
    from kdbench.harness.runner import score_command

    raise typer.Exit(score_command(runs or [runs_dir], json_output=json_output))
