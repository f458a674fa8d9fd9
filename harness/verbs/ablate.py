"""``kdbench ablate``: a grid of runs and the table they make."""

from pathlib import Path
from typing import Annotated

import typer

from kdbench.harness.verbs import options


def ablate(
    *,
    study: Annotated[str, typer.Argument(help="A name (kdbench ls studies) or a YAML file.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run, and how long it would take.")
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Go on after a run that fails; list them at the end."),
    ] = False,
    executor: Annotated[
        str, typer.Option(help="local, ray or slurm; settings after a colon: slurm:partition=gpu.")
    ] = "local",
    jobs: Annotated[int | None, typer.Option(help="Runs at once.")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite instead of the study's.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Training seeds, comma-separated; default: the study's.")
    ] = None,
    tasks: Annotated[str | None, options.TASKS] = None,
    set_: options.Set = None,
    work: options.Workplace,
    out: Annotated[
        Path | None, typer.Option(help="Folder of tables, figure and logs; default: studies/NAME.")
    ] = None,
) -> None:
    """Run a study: train what is missing, compare every row with the base.

    The same command continues a study that was interrupted; finished runs are never repeated.
    """
    options.calm_libraries()
    from kdbench.harness.study.command import StudyRequest, ablate_command

    changes = {
        "suite": suite,
        "seeds": options.number_list(seeds, "--seeds"),
        "tasks": options.name_list(tasks, "--tasks"),
    }
    request = StudyRequest(
        name=study,
        changes={key: value for key, value in changes.items() if value is not None},
        settings=tuple(set_ or ()),
        executor=executor,
        jobs=jobs,
        keep_going=keep_going,
        out=out,
        **work.checked(),
    )
    raise typer.Exit(ablate_command(request, dry_run=dry_run))
