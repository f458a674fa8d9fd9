"""``kdbench claims``: what the papers claim, tested on a board."""

from typing import Annotated

import typer

from kdbench.harness.verbs import options


def claims(
    *,
    claims_: Annotated[
        str,
        typer.Option("--claims", help="Claims: a version that comes with kdbench, or a YAML file."),
    ] = "claims-v1",
    only: Annotated[
        str | None, typer.Option(help="Only these claims or papers, comma-separated.")
    ] = None,
    format_: options.Format = "terminal",
    out: options.Out = None,
    runs: options.Runs,
) -> None:
    """Test the papers' claims on finished runs: holds, does not hold, not significant, not measured."""
    from kdbench.reports.claims.book import claim_book
    from kdbench.reports.claims.document import claims_document
    from kdbench.reports.claims.judge import judge_claims

    book = claim_book(claims_).only(options.name_list(only, "--only"))
    report = judge_claims(runs.places, book)
    options.deliver(
        claims_document(report), report, json_output=runs.json_output, format_=format_, out=out
    )
