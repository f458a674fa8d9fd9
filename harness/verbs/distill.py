"""``kdbench distill``: models and data of one's own, from two names and a file to the best student."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.harness.verbs import options


@dataclass(frozen=True, kw_only=True)
class Compared(options.Group):
    """What is compared, by which rows, and who makes the runs."""

    eval_: Annotated[
        str | None, typer.Option("--eval", help="Rows to judge by; default: held out of --data.")
    ] = None
    methods: Annotated[
        str,
        typer.Option(
            "--methods", "--method", help="Comma-separated; auto: by what the pair allows."
        ),
    ] = "auto"
    budget: Annotated[
        str | None,
        typer.Option(
            help="2h or 30m for all; 3ep, 5Mtok or 200ktok for each; default: by the rows."
        ),
    ] = None
    columns: Annotated[
        str | None, typer.Option(help="Which column is what: prompt=a,response=b.")
    ] = None
    seeds: Annotated[
        str,
        typer.Option(
            help="Training seeds, comma-separated. With one it is only said who is ahead on the test rows."
        ),
    ] = "10"
    executor: Annotated[
        str, typer.Option(help="local, ray or slurm; settings after a colon: slurm:partition=gpu.")
    ] = "local"
    jobs: Annotated[int | None, typer.Option(help="Runs at once.")] = None


def distill(
    *,
    teacher: Annotated[str, typer.Option(help="Teacher: hub id, folder or .gguf file.")],
    student: Annotated[
        str,
        typer.Option(
            help="Student: hub id, folder, .gguf, prune:N (N of the teacher's layers) or a config.json."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(help="Rows to learn from: a file, a folder, or name:config:split of the hub."),
    ],
    compared: Compared,
    out: Annotated[
        Path | None, typer.Option(help="Folder of all that is made; default: below distilled/.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what was understood and chosen, and stop.")
    ] = False,
    set_: options.Set = None,
    device: options.Device = "auto",
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Distil your teacher into your student on your data, by several methods, and name the best.

    Says first what it understood and chose, and what that costs. The same command continues one that
    was interrupted; nothing is repeated.
    """
    from kdbench.harness.api.distilling import distill as make
    from kdbench.harness.printing import visible_json

    more: dict[str, Any] = {}
    if dry_run and json_output:
        more["told"] = lambda facts: typer.echo(visible_json(facts, indent=1))
    found = make(
        *(teacher, student, data),
        eval=compared.eval_,
        methods=compared.methods,
        budget=compared.budget,
        out=out,
        columns=compared.columns,
        seeds=options.number_list(compared.seeds, "--seeds") or (),
        settings=set_,
        dry_run=dry_run,
        device=device,
        executor=compared.executor,
        jobs=compared.jobs,
        quiet=quiet or json_output,
        say=not json_output,
        **more,
    )
    if json_output and found is not None:
        typer.echo(visible_json(found.as_json(), indent=1))
    raise typer.Exit(1 if found is not None and found.failures else 0)
