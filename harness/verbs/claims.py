"""``kdbench claims``: what the papers claim, tested on a board."""

from typing import Annotated

import typer

from kdbench.harness.verbs import options
from kdbench.harness.verbs.ledger import Format, Out


def claims(
    runs: options.RunFolders = None,
    runs_dir: options.RunsDir = options.RUNS,
    only: Annotated[
        str | None, typer.Option(help="Only these claims or papers, comma-separated.")
    ] = None,
    format_: Format = "terminal",
    out: Out = None,
    json_output: options.Json = False,
) -> None:
    """Test the papers' claims on finished runs: holds, does not hold, not significant, not measured."""
    from kdbench.reports.claims.book import claim_book
    from kdbench.reports.claims.judge import judge_claims
    from kdbench.reports.claims.text import render_markdown, render_terminal

    book = claim_book().only(options.name_list(only, "--only"))
    report = judge_claims(runs or [runs_dir], book)
    renderers = {
        "terminal": lambda: render_terminal(report),
        "md": lambda: render_markdown(report),
        "json": lambda: report.model_dump_json(indent=1) + "\n",
    }
    options.deliver(renderers, "json" if json_output else format_, out)
