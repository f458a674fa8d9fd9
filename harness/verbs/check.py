"""``kdbench check``: the fair-comparison rules, applied to finished runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.harness.verbs import options

if TYPE_CHECKING:
    from kdbench.reports.rules.report import CheckReport

BROKEN = 3


def check(
    runs: options.RunFolders = None,
    rules: Annotated[
        str, typer.Option(help="Rules: a version that comes with kdbench, or a YAML file.")
    ] = "closed-v1",
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> int:
    """Check runs against the fair-comparison rules: closed or open division, and why.

    Runs are compared with each other; one run alone with the finished ones beside its folder.
    """
    from kdbench.reports.rules.report import check_runs, render_check

    report: CheckReport = check_runs(runs or [runs_dir], rules)
    if json_output:
        typer.echo(report.model_dump_json(indent=1))
    else:
        typer.echo(render_check(report).rstrip("\n"))
    return BROKEN if report.broken else 0
