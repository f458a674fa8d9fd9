"""``kdbench check``: the fair-comparison rules, applied to finished runs."""

from typing import Annotated

import typer

from kdbench.harness.verbs import options

BROKEN = 3


def check(
    *,
    rules: Annotated[
        str, typer.Option(help="Rules: a version that comes with kdbench, or a YAML file.")
    ] = "closed-v1",
    runs: options.Runs,
) -> int:
    """Check runs against the fair-comparison rules: closed or open division, and why.

    Runs are compared with each other; one run alone with the finished ones beside its folder.
    """
    from kdbench.reports.rules.report import check_document, check_runs

    report = check_runs(runs.places, rules)
    options.deliver(check_document(report), report, json_output=runs.json_output)
    return BROKEN if report.broken else 0
