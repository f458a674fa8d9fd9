"""``kdbench leaderboard``: the table of finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from kdbench.harness.verbs import options


def leaderboard(
    runs: options.RunFolders = None,
    runs_dir: options.RunsDir = options.RUNS,
    format_: Annotated[
        str, typer.Option("--format", help="terminal, md, csv, latex, json or html.")
    ] = "terminal",
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Exit 3 if the file in --out would change.")
    ] = False,
    tasks: options.Tasks = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, comma-separated; default: all.")
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Compare finished runs: means, intervals, and which differences are significant."""
    from kdbench.reports.board import leaderboard as make

    text = make(
        runs or [runs_dir],
        "json" if json_output else format_,  # type: ignore[arg-type]  # checked there
        out=out,
        verify=verify,
        tasks=options.name_list(tasks, "--tasks"),
        metrics=options.name_list(metrics, "--metrics"),
    )
    typer.echo(f"{out} is up to date" if verify else f"wrote {out}" if out else text.rstrip("\n"))
