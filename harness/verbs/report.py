"""``kdbench report``: one run as a document with figures."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kdbench.harness.verbs import options


def report(
    run: options.RunName,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: report/ in the run folder.")
    ] = None,
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> None:
    """Write a run's report: Markdown, one HTML file, and figures with their numbers as CSV.

    Of an unfinished run it says what is missing and exits with 1.
    """
    from kdbench.reports.run.report import write_report

    made = write_report(options.named_run(run, runs_dir).path, out)
    if json_output:
        document = {
            "files": [str(path) for path in made.files],
            "left_out": made.left_out,
            "missing": {stage.name: stage.missing for stage in made.missing},
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        for name, reason in made.left_out.items():
            typer.echo(f"no figure {name}: {reason}")
        for stage in made.missing:
            typer.echo(f"not done: {stage.name}: {stage.missing}")
        figures = sum(path.suffix == ".svg" for path in made.files)
        typer.echo(f"wrote {made.files[0]}, {made.files[1].name} and {figures} figures")
    raise typer.Exit(1 if made.missing else 0)
