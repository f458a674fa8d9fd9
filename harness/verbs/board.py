"""``kdbench leaderboard``: the table of finished runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.harness.verbs import options


def leaderboard(
    *,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="terminal, md, csv, latex, json or html; default: by --out's ending, or terminal.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write, or folder for all formats and index.html.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Exit 3 if a byte of what is in --out would change.")
    ] = False,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks by name, comma-separated; default: all.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, comma-separated; default: all.")
    ] = None,
    runs: options.Runs,
) -> None:
    """Compare finished runs: means, intervals, and which differences are significant."""
    from kdbench.reports import board

    wanted = "json" if runs.json_output else format_
    asked: dict[str, Any] = {
        "verify": verify,
        "tasks": options.name_list(tasks, "--tasks"),
        "metrics": options.name_list(metrics, "--metrics"),
    }
    if out is not None and wanted is None and (out.is_dir() or out.suffix not in board.SUFFIXES):
        files = board.leaderboard_folder(runs.places, out, **asked)
        names = ", ".join(file.name for file in files)
        typer.echo(f"{out} is up to date: {names}" if verify else f"wrote {out}: {names}")
        return
    by_name = board.SUFFIXES.get(out.suffix) if out is not None else None
    text = board.leaderboard(
        runs.places,
        wanted or by_name or "terminal",  # type: ignore[arg-type]  # checked there
        out=out,
        **asked,
    )
    typer.echo(f"{out} is up to date" if verify else f"wrote {out}" if out else text.rstrip("\n"))
