"""``kdbench compare``: two runs, or two methods over their training seeds, prompt by prompt."""

from pathlib import Path
from typing import Annotated

import typer

from kdbench.harness.verbs import options
from kdbench.harness.verbs.show import find_run

Side = Annotated[
    Path,
    typer.Argument(
        help="Run folder, its name (or a part) in --runs-dir, or a method: all its training seeds.",
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
    from kdbench.reports.compare_text import render_comparison

    found = make(
        _folders(a, runs_dir),
        _folders(b, runs_dir),
        tasks=options.name_list(task, "--task"),
        metrics=options.name_list(metrics, "--metrics"),
    )
    text = found.model_dump_json(indent=1) if json_output else render_comparison(found)
    typer.echo(text.rstrip("\n"))


def _folders(name: Path, runs_dir: Path) -> list[Path]:
    """Run folders of one side: one run, or all of the method that ``name`` is the label of."""
    from kdbench.reports.load import find_runs

    if not any((folder / "config.json").is_file() for folder in (name, runs_dir / name)):
        runs = find_runs([runs_dir])[0] if runs_dir.is_dir() else []
        labelled = [run.folder for run in runs if run.summary.run.method == str(name)]
        if labelled:
            return labelled
    return [find_run(name, runs_dir)]
