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
    rules: Annotated[
        str, typer.Option(help="What divides methods into closed and open: a version, or a file.")
    ] = "closed-v1",
    runs: options.Runs,
) -> None:
    """Compare finished runs: means, intervals, and which differences are significant."""
    from kdbench.harness.files.folders import board_cache
    from kdbench.reports import board
    from kdbench.reports.rules.check import rulebook

    wanted = "json" if runs.json_output else format_
    by_name = board.SUFFIXES.get(out.suffix) if out is not None else None
    asked: dict[str, Any] = {
        "verify": verify,
        "tasks": options.name_list(tasks, "--tasks"),
        "metrics": options.name_list(metrics, "--metrics"),
        "rules": rulebook(rules),
        "cache": board_cache(),
    }
    if out is not None and wanted is None and (out.is_dir() or by_name is None):
        files = board.leaderboard_folder(runs.places, out, **asked)
        names = ", ".join(file.name for file in files)
        typer.echo(f"{out} is up to date: {names}" if verify else f"wrote {out}: {names}")
        return
    text = board.leaderboard(
        runs.places,
        wanted or by_name or "terminal",  # type: ignore[arg-type]  # checked there
        out=out,
        **asked,
    )
    typer.echo(f"{out} is up to date" if verify else f"wrote {out}" if out else text.rstrip("\n"))
