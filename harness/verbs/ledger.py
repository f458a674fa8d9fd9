"""``kdbench ledger``: published numbers beside ours."""

from typing import Annotated

import typer

from kdbench.harness.verbs import options


def ledger(
    runs: options.RunFolders = None,
    runs_dir: options.RunsDir = options.RUNS,
    suite: Annotated[
        str | None, typer.Option(help="Only numbers of these suites, comma-separated.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every number, those without a run too.")
    ] = False,
    format_: options.Format = "terminal",
    out: options.Out = None,
    json_output: options.Json = False,
) -> None:
    """Put published numbers beside ours: agrees, differs or not run, with known causes."""
    from kdbench.harness.resolve import resolve
    from kdbench.reports.documents.ledger import ledger_document
    from kdbench.reports.ledger import ledger as make

    places = runs or ([runs_dir] if runs_dir.is_dir() else [])
    found = make(
        places,
        lambda suite, method: resolve(suite=suite, method=method),
        suites=options.name_list(suite, "--suite"),
    )
    document = ledger_document(found, everything=everything or format_ != "terminal")
    options.deliver(document, found, json_output=json_output, format_=format_, out=out)
