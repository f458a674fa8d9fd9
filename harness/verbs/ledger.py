"""``kdbench ledger``: published numbers beside ours."""

from typing import Annotated

import typer

from kdbench.harness.verbs import options


def ledger(
    *,
    suite: Annotated[
        str | None, typer.Option(help="Only numbers of these suites, comma-separated.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every number, those without a run too.")
    ] = False,
    format_: options.Format = "terminal",
    out: options.Out = None,
    runs: options.Runs,
) -> None:
    """Put published numbers beside ours: agrees, differs or not run, with known causes."""
    from kdbench.harness.resolve import resolve
    from kdbench.reports.documents.ledger import ledger_document
    from kdbench.reports.ledger import ledger as make

    places = runs.runs or ([runs.runs_dir] if runs.runs_dir.is_dir() else [])
    found = make(
        places,
        lambda suite, method: resolve(suite=suite, method=method),
        suites=options.name_list(suite, "--suite"),
    )
    document = ledger_document(found, everything=everything or format_ != "terminal")
    options.deliver(document, found, json_output=runs.json_output, format_=format_, out=out)
