"""``kdbench eval`` and ``kdbench score``: evaluations of any model, numbers of stored samples."""

import os
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.harness.errors import InputError
from kdbench.harness.verbs import options
from kdbench.harness.verbs.options import Sets

if TYPE_CHECKING:
    from kdbench.harness.config import RunConfig


TASK_FILES = typer.Option(
    "--include-path", metavar="PATH", help="Folder of further lm-eval task files (YAML)."
)


@dataclass(frozen=True, kw_only=True)
class Evaluated(options.Asked):
    """What is asked, and what is measured besides."""

    protocol: Annotated[
        str | None,
        typer.Option(help="Evaluation protocol: minillm-compat or strict."),
        Sets("tasks.protocol"),
    ] = None
    probes: Annotated[
        str | None,
        typer.Option(help="exposure, calibration, loss, truth, self_bleu; comma-separated."),
        Sets("tasks.probes", options.name_list),
    ] = None
    include_path: Annotated[str | None, TASK_FILES, Sets("tasks.include_path")] = None


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
    suite: Annotated[
        str | None,
        typer.Option(help="Protocol: a name (kdbench ls suites) or a YAML file; default: mini."),
    ] = None,
    asked: Evaluated,
    teacher: Annotated[
        str | None,
        typer.Option(help="For exposure bias, named like --model; default: that of the run."),
    ] = None,
    set_: options.Set = None,
    work: options.Workplace,
) -> None:
    """Evaluate a trained run or any model on tasks, adding to what is there."""
    options.calm_libraries()
    if (run is None) == (model is None):
        raise InputError("give either a run folder or --model, as in: kdbench eval --model teacher")
    from kdbench.harness.api.running import (
        asked_config,
        eval_request,
        whole_config,
        without_task_files,
    )
    from kdbench.harness.resolve import overlay

    flags, settings = asked.settings(), set_ or ()
    if run is not None:  # its stored configuration with other tasks or decoding
        stored, placed = without_task_files(whole_config(run))
        config = overlay(stored, settings, flags, sections=("tasks", "generate"))
        check_tasks(config, placed)
        work = replace(work, runs_dir=run.resolve().parent)
    else:
        config = asked_config(str(model), suite, settings, flags)
    request = work.request(config, model=model, teacher=teacher, run=run)
    options.say_made(eval_request(request), work)


def check_tasks(config: "RunConfig", placed: str | None) -> None:
    """Refuses tasks that are not there, and says so if they were in a folder that the run names."""
    from kdbench.harness.evaluation.names import tasks_of

    try:
        tasks_of(config.tasks)
    except InputError as error:
        if placed is None or config.tasks.include_path is not None:
            raise
        raise InputError(
            f"{error}; the run had task files in {placed}, which can run code, so they are read only "
            f"where the command line names their folder: --include-path {shlex.quote(placed)}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Outside(options.Group):
    """Answers of another system, instead of stored samples."""

    outputs: Annotated[
        str | None,
        typer.Option(help="Answers of another system: a JSON array of texts, or a row an answer."),
    ] = None
    references: Annotated[
        str | None, typer.Option(help="What they answer: a file, folder or hub's data set of rows.")
    ] = None
    answer_column: Annotated[
        str | None,
        typer.Option(help="Column of --outputs that holds them; default: by its name."),
    ] = None
    columns: Annotated[
        str | None, typer.Option(help="Of the references, as prompt=a,response=b.")
    ] = None
    name: Annotated[
        str | None, typer.Option(help="What tables call that system; default: the file's name.")
    ] = None
    beside: Annotated[
        Path | None, typer.Option(help="A run on the same rows, whose column they stand in.")
    ] = None
    evaluation: Annotated[
        str | None,
        typer.Option(
            help="Which of that run's evaluations, by key or protocol, where several fit."
        ),
    ] = None


def score(
    *,
    outside: Outside,
    include_path: Annotated[str | None, TASK_FILES] = None,
    rouge_tokenizer: Annotated[
        str | None,
        typer.Option(help="What a word of ROUGE-L is: rouge or unicode; default: as it was."),
    ] = None,
    runs: options.Runs,
    quiet: options.Quiet = False,
) -> None:
    """Score stored samples again, without a model or a GPU; with --outputs, other systems' answers."""
    said = {"json_output": runs.json_output, "quiet": quiet}
    if outside.outputs is not None or outside.references is not None:
        if outside.outputs is None or outside.references is None or runs.runs:
            raise InputError(
                "answers of another system need both --outputs and --references, and no run folder"
            )
        from kdbench.harness.runner.outside import OutsideRequest, outside_command

        given = {**asdict(outside), "tokenizer": rouge_tokenizer, "runs_dir": runs.runs_dir}
        raise typer.Exit(outside_command(OutsideRequest(**given), **said))
    from kdbench.harness.runner.score import score_command

    place = include_path and os.path.abspath(include_path)
    raise typer.Exit(score_command(runs.places, place, rouge_tokenizer, **said))
