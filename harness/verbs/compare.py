"""``kdbench compare``: two runs, or two methods over their training seeds, prompt by prompt."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.harness.verbs import options

if TYPE_CHECKING:
    from kdbench.reports.runs import Run

Side = Annotated[
    str,
    typer.Argument(
        help="Run folder, its name (or a part) in --runs-dir, several of one row separated by commas, "
        "or a method: all its training seeds. A method with several rows needs the first digits of a "
        "run's id too, as boards show them: minillm:d4d1.",
        show_default=False,
    ),
]


def compare(
    a: Side,
    b: Side,
    task: Annotated[
        str | None, typer.Option("--task", help="Tasks, comma-separated; default: all in common.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, comma-separated; default: those with a direction.")
    ] = None,
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> None:
    """Compare two runs prompt by prompt: difference, interval, p, wins, and where they differ most."""
    from kdbench.reports.compare import compare as make
    from kdbench.reports.documents.compare import compare_document

    found = make(
        _folders(a, runs_dir),
        _folders(b, runs_dir),
        tasks=options.name_list(task, "--task"),
        metrics=options.name_list(metrics, "--metrics"),
    )
    options.deliver(compare_document(found), found, json_output=json_output)


def _folders(side: str, runs_dir: Path) -> list[Path]:
    """Run folders of one side."""
    names = options.name_list(side, "a side of the comparison") or []
    return [folder for name in names for folder in _named(name, runs_dir)]


def _named(name: str, runs_dir: Path) -> list[Path]:
    """One run, or all runs of the method, or of its row, that ``name`` is the label of."""
    from kdbench.reports.runs import finished_runs

    if exact := options.exact_run(name, runs_dir):
        return [exact.path]
    runs = finished_runs([runs_dir])[0] if runs_dir.is_dir() else []
    labelled = [run.folder.path for run in runs if run.summary.run.method == name]
    return labelled or _row(name, runs) or [options.named_run(name, runs_dir).path]


def _row(name: str, runs: "list[Run]") -> list[Path]:
    """Run folders of the row ``method:digits``, where a run's id starts with these digits."""
    from kdbench.reports.rows import sections

    label = re.fullmatch(r"(.+)[:@ ]([0-9a-f]{4,12})", name)
    if label is None:
        return []
    method, digits = label.groups()
    return [
        run.folder.path
        for section in sections(runs)
        for grouped in section.rows
        if grouped.row.method == method and any(i.startswith(digits) for i in grouped.row.runs)
        for run in grouped.runs
    ]
