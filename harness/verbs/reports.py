"""``kdbench leaderboard``, ``compare``, ``check``, ``claims``, ``ledger``, ``bundle``, ``report``."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from kdbench.harness.verbs import options

if TYPE_CHECKING:
    from kdbench.harness.files.store import Say
    from kdbench.reports.runs import Run

BROKEN = 3
Side = Annotated[
    str,
    typer.Argument(
        help="Run folder, its name (or a part) in --runs-dir, several of one row separated by commas, "
        "or a method: all its training seeds. A method with several rows, or with several pairs of models, "
        "needs the first digits of a run's id too, as boards show them: minillm:d4d1.",
        show_default=False,
    ),
]

SpreadOption = Annotated[
    Literal["pm", "interval", "none"],
    typer.Option(help="Of LaTeX's first table: ± half of the 95% interval, the interval, or none."),
]
BoardFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="terminal, md, csv, latex, json or html; default: by --out's ending, or terminal.",
    ),
]
BoardOut = Annotated[
    Path | None,
    typer.Option(
        help="File to write, or folder for all formats and index.html; with --format for that one."
    ),
]


def leaderboard(
    *,
    format_: BoardFormat = None,
    out: BoardOut = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Exit 3 if a byte of what is in --out would change.")
    ] = False,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks by name, comma-separated; default: all.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, comma-separated; default: all.")
    ] = None,
    spread: SpreadOption = "pm",
    rules: Annotated[
        str, typer.Option(help="What divides methods into closed and open: a version, or a file.")
    ] = "closed-v2",
    runs: options.Runs,
) -> int:
    """Compare finished runs: means, intervals, and which differences are significant.

    A run that is damaged is left out and named, and the exit code is then 1.
    """
    from kdbench.harness.files.folders import board_cache
    from kdbench.reports import board
    from kdbench.reports.rules.check import rulebook

    wanted = "json" if runs.json_output else format_
    if out is not None and out.is_dir() and wanted is not None and wanted in board.FILES:
        out /= board.FILES[wanted]
    by_name = board.SUFFIXES.get(out.suffix) if out is not None else None
    damaged: list[str] = []
    asked: dict[str, Any] = {
        "say": damaged.append,
        "verify": verify,
        "tasks": options.name_list(tasks, "--tasks"),
        "metrics": options.name_list(metrics, "--metrics"),
        "spread": spread,
        "rules": rulebook(rules),
        "cache": board_cache(),
    }
    if out is not None and wanted is None and (out.is_dir() or by_name is None):
        files = board.leaderboard_folder(runs.places, out, **asked)
        names = ", ".join(file.name for file in files)
        typer.echo(f"{out} is up to date: {names}" if verify else f"wrote {out}: {names}")
        return _left_out(damaged)
    text = board.leaderboard(
        runs.places,
        wanted or by_name or "terminal",  # type: ignore[arg-type]  # checked there
        out=out,
        **asked,
    )
    typer.echo(f"{out} is up to date" if verify else f"wrote {out}" if out else text.rstrip("\n"))
    return _left_out(damaged)


def _left_out(damaged: list[str]) -> int:
    """Names the runs that had to be done without, each once; the exit code."""
    for reason in dict.fromkeys(damaged):
        typer.echo(f"kdbench: left out: {reason}", err=True)
    return 1 if damaged else 0


def compare(
    a: Side,
    b: Side,
    task: Annotated[
        str | None,
        typer.Option("--tasks", "--task", help="Tasks, comma-separated; default: all in common."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, comma-separated; default: those with a direction.")
    ] = None,
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> int:
    """Compare two runs prompt by prompt: difference, interval, p, wins, and where they differ most.

    A run that is damaged is left out and named, and the exit code is then 1.
    """
    from kdbench.harness.files.bundle.opening import opened
    from kdbench.reports.compare import compare as make
    from kdbench.reports.documents.compare import compare_document

    damaged: list[str] = []
    runs_dir = opened(runs_dir)
    one, two = (_folders(side, runs_dir, damaged.append) for side in (a, b))
    found = make(
        one.folders,
        two.folders,
        tasks=options.name_list(task, "--task"),
        metrics=options.name_list(metrics, "--metrics"),
        beside=[runs_dir] if runs_dir.is_dir() else [],
        say=damaged.append,
        across=one.by_run and two.by_run,
    )
    options.deliver(compare_document(found), found, json_output=json_output)
    return _left_out(damaged)


class _Named(NamedTuple):
    """Run folders of one side."""

    folders: list[Path]
    by_run: bool
    """Whether runs were named, no method."""


def _folders(side: str, runs_dir: Path, say: "Say") -> _Named:
    """Run folders of one side, of all pairs of models where a method is named."""
    names = options.name_list(side, "a side of the comparison") or []
    found = [_named(name, runs_dir, say) for name in names]
    folders = [folder for each in found for folder in each.folders]
    return _Named(folders, all(each.by_run for each in found))


def _named(name: str, runs_dir: Path, say: "Say") -> _Named:
    """One run, or all runs of the method, or of its row, that ``name`` is the label of."""
    from kdbench.reports.runs import told_runs

    if exact := options.exact_run(name, runs_dir):
        return _Named([exact.path], by_run=True)
    runs = told_runs([runs_dir], say) if runs_dir.is_dir() else []
    methods = {run.summary.run.method for run in runs}
    # a file my_loss.py is a method my_loss, and people say my-loss
    alike = [m for m in methods if m.replace("_", "-") == name.replace("_", "-")]
    wanted = name if name in methods or len(alike) != 1 else alike[0]
    labelled = [run.folder.path for run in runs if run.summary.run.method == wanted]
    if found := labelled or _row(name, runs):
        return _Named(found, by_run=False)
    return _Named([options.named_run(name, runs_dir).path], by_run=True)


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


def check(
    *,
    rules: Annotated[
        str, typer.Option(help="Rules: a version that comes with kdbench, or a YAML file.")
    ] = "closed-v2",
    content: Annotated[
        bool,
        typer.Option(
            "--content",
            help="Instead: read every file and say which are not as they were written; exit 3 if any.",
        ),
    ] = False,
    runs: options.Runs,
) -> int:
    """Check runs against the fair-comparison rules: closed or open division, and why.

    Runs are compared with each other; one run alone with the finished ones beside its folder.
    """
    if content:
        return _check_content(runs)
    from kdbench.reports.rules.report import check_document, check_runs

    report = check_runs(runs.places, rules)
    options.deliver(check_document(report), report, json_output=runs.json_output)
    return BROKEN if report.broken else 0


def _check_content(runs: options.Runs) -> int:
    """Every file of every run, with its state."""
    from kdbench.harness.files.bundle.opening import opened
    from kdbench.harness.files.content import check_content
    from kdbench.harness.files.run_folder import find_runs
    from kdbench.reports.documents.content import content_document

    found = [check_content(run) for run in find_runs(map(opened, runs.places))]
    result = [each.model_dump(mode="json") for each in found]
    options.deliver(content_document(found), result, json_output=runs.json_output)
    return BROKEN if any(each.damaged for each in found) else 0


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
) -> int:
    """Test the papers' claims on finished runs: holds, does not hold, not significant, not measured.

    A run that is damaged is left out and named, and the exit code is then 1.
    """
    from kdbench.reports.claims.book import claim_book
    from kdbench.reports.claims.document import claims_document
    from kdbench.reports.claims.judge import judge_claims

    book = claim_book(claims_).only(options.name_list(only, "--only"))
    damaged: list[str] = []
    report = judge_claims(runs.places, book, say=damaged.append)
    options.deliver(
        claims_document(report), report, json_output=runs.json_output, format_=format_, out=out
    )
    return _left_out(damaged)


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
) -> int:
    """Put published numbers beside ours: agrees, differs or not run, with known causes.

    A run that is damaged is left out and named, and the exit code is then 1.
    """
    from kdbench.harness.resolve import resolve
    from kdbench.reports.documents.ledger import ledger_document
    from kdbench.reports.ledger import ledger as make

    places = runs.runs or ([runs.runs_dir] if runs.runs_dir.exists() else [])
    damaged: list[str] = []
    found = make(
        places,
        lambda suite, method: resolve(suite=suite, method=method),
        suites=options.name_list(suite, "--suite"),
        say=damaged.append,
    )
    document = ledger_document(found, everything=everything or format_ != "terminal")
    options.deliver(document, found, json_output=runs.json_output, format_=format_, out=out)
    return _left_out(damaged)


def bundle(
    *,
    out: Annotated[Path, typer.Option(help="File to write.")],
    answers: Annotated[
        bool, typer.Option(help="Keep the few answers that the page of a board shows.")
    ] = True,
    runs: options.Runs,
) -> int:
    """Put finished runs into one small file that boards, claims, comparisons and studies are made from.

    It holds summaries, scores of each prompt and what runs were made of; no models, and of the answers
    only those on the page. Every verb that reads runs takes it in the place of a folder.
    """
    from kdbench.reports.bundle import write_bundle

    made = write_bundle(runs.places, out, answers=answers)
    if runs.json_output:
        typer.echo(made.model_dump_json(indent=2))
    else:
        typer.echo(
            f"wrote {out}: {len(made.runs)} runs, {made.answers:,} answers, {made.size:,} bytes"
        )
    return _left_out(made.left_out)


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
