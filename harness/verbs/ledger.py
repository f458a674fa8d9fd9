"""``kdbench ledger``: published numbers beside ours."""

from pathlib import Path
from typing import Annotated

import typer

from kdbench.harness.verbs import options

Format = Annotated[str, typer.Option("--format", help="terminal, md or json.")]
Out = Annotated[Path | None, typer.Option(help="File to write.")]


def ledger(
    runs: options.RunFolders = None,
    runs_dir: options.RunsDir = options.RUNS,
    suite: Annotated[
        str | None, typer.Option(help="Only numbers of these suites, comma-separated.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every number, those without a run too.")
    ] = False,
    format_: Format = "terminal",
    out: Out = None,
    json_output: options.Json = False,
) -> None:
    """Put published numbers beside ours: agrees, differs or not run, with known causes."""
    from kdbench.harness.resolve import resolve
    from kdbench.reports.ledger import ledger as make
    from kdbench.reports.ledger_text import render_markdown, render_terminal

    places = runs or ([runs_dir] if runs_dir.is_dir() else [])
    found = make(
        places,
        lambda suite, method: resolve(suite=suite, method=method),
        suites=options.name_list(suite, "--suite"),
    )
    renderers = {
        "terminal": lambda: render_terminal(found, everything=everything),
        "md": lambda: render_markdown(found),
        "json": lambda: found.model_dump_json(indent=1) + "\n",
    }
    options.deliver(renderers, "json" if json_output else format_, out)
