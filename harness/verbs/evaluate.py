"""``kdbench eval`` and ``kdbench score``: evaluations of any model, numbers of stored samples."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.harness.errors import InputError
from kdbench.harness.verbs import options
from kdbench.harness.verbs.options import Sets

if TYPE_CHECKING:
    from kdbench.harness.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Evaluated(options.Asked):
    """What is asked, and what is measured besides."""

    probes: Annotated[
        str | None,
        typer.Option(help="exposure, calibration, loss, truth, self_bleu; comma-separated."),
        Sets("tasks.probes", options.name_list),
    ] = None
    include_path: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Folder of further lm-eval task files (YAML)."),
        Sets("tasks.include_path"),
    ] = None


def evaluate(
    *,
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder whose student gets more tasks.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Instead: hub id, folder, .gguf, or teacher, init, truth of the suite."),
    ] = None,
    suite: options.Suite = "mini",
    asked: Evaluated,
    teacher: Annotated[
        str | None, typer.Option(help="For exposure bias: named like --model.")
    ] = None,
    set_: options.Set = None,
    work: options.Workplace,
) -> None:
    """Evaluate a trained run or any model on tasks, adding to what is there."""
    options.calm_libraries()
    if (run is None) == (model is None):
        raise InputError("give either a run folder or --model, as in: kdbench eval --model teacher")
    from kdbench.harness.resolve import overlay, resolve

    flags, settings = asked.settings(), set_ or ()
    if run is not None:  # its stored configuration with other tasks or decoding
        config = overlay(stored_config(run), settings, flags, sections=("tasks", "generate"))
        work = replace(work, runs_dir=run.resolve().parent)
    else:  # an evaluation uses no method's settings
        config = resolve(suite=suite, method="sft", assignments=settings, flags=flags)
    from kdbench.harness.runner import eval_command

    raise typer.Exit(eval_command(work.request(config, model=model, teacher=teacher, run=run)))


def stored_config(folder: Path) -> "RunConfig":
    """The configuration that a run was made with."""
    from kdbench.harness.config import RunConfig
    from kdbench.harness.files.run_folder import RunFolder
    from kdbench.harness.files.store import read_record

    config = RunFolder(folder).config
    if not config.exists():
        raise InputError(
            f"{folder} is no run folder (it has no {config.path.name}); see: kdbench ls runs"
        )
    return read_record(config.path, RunConfig)


def score(runs: options.Runs) -> None:
    """Score stored samples again, without a model or a GPU."""
    from kdbench.harness.runner import score_command

    raise typer.Exit(score_command(runs.places, json_output=runs.json_output))
