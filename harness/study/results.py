"""What a study found, as files: a table of differences to the base, or a board if it has none."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.files.records import Missing
from kdbench.harness.files.run_folder import RunFolder, runs_in
from kdbench.harness.files.store import write_text
from kdbench.harness.study.definition import Study
from kdbench.harness.study.driver import Failure
from kdbench.harness.study.plan import Planned
from kdbench.harness.study.state import Place
from kdbench.reports.ablation import Ablation, Given, build_ablation


class Results(NamedTuple):
    """A table for the terminal and the same as plain data; the files are written."""

    terminal: str
    document: dict[str, Any]


def make_results(
    study: Study, plan: Sequence[Planned], place: Place, out: Path, failures: Sequence[Failure]
) -> Results:
    """Writes ``table.{md,tex,csv,json}`` and ``differences.{svg,png,csv}``, or a board's folder."""
    folders = [p.state.run.path for p in plan if p.state.how == "cached" and p.state.run]
    if not folders:
        return Results("no run of this study is finished yet\n", {"table": None})
    if study.base is None:
        tasks = plan[0].cell.config.tasks.names
        return _board(list(dict.fromkeys(folders)), place, out, tasks)
    table = _table(study, study.base, plan, failures)
    from kdbench.reports import ablation_text as text
    from kdbench.reports.figures import save
    from kdbench.reports.figures.ablation import differences

    write_text(out / "table.md", text.render_markdown(table))
    write_text(out / "table.tex", text.render_latex(table))
    write_text(out / "table.csv", text.render_csv(table))
    write_text(out / "table.json", text.render_json(table))
    plot = differences(table)
    if not isinstance(plot, Missing):
        save(plot, out / "differences")
    return Results(text.render_terminal(table), {"table": table.model_dump(mode="json")})


def _table(
    study: Study, base: str, plan: Sequence[Planned], failures: Sequence[Failure]
) -> Ablation:
    reasons = {failure.name: f"failed: {failure.reason}" for failure in failures}
    given = []
    for row in study.all_rows():
        mine = [planned for planned in plan if planned.cell.label == row.label]
        folders = [p.state.run.path for p in mine if p.state.how == "cached" and p.state.run]
        absent = [
            f"seed {p.cell.seed} {reasons.get(p.cell.name, 'has not run yet')}"
            for p in mine
            if p.state.how != "cached"
        ]
        given.append(Given(row.label, list(dict.fromkeys(folders)), "; ".join(absent)))
    tasks = plan[0].cell.config.tasks
    return build_ablation(
        given,
        title=study.title,
        base=base,
        suite=plan[0].cell.config.suite,
        paper=study.paper,
        published=study.published,
        published_pair=study.published_pair,
        tasks=tasks.names,
        protocol=tasks.protocol,
        edition=tasks.edition if tasks.limit is None else f"{tasks.edition}:{tasks.limit}",
    )


def _board(folders: list[Path], place: Place, out: Path, tasks: Sequence[str]) -> Results:
    """The runs and the reference rows of their suite, in every format, below ``out/board``."""
    from kdbench.reports.board import leaderboard, leaderboard_folder

    suite = RunFolder(folders[0]).summary.read().run.suite
    found = [(run, run.summary.find()) for run in runs_in(place.runs_dir)]
    references = [
        run.path
        for run, summary in found
        if summary and summary.run.kind == "eval" and summary.run.suite == suite
    ]
    paths = [*references, *folders]
    leaderboard_folder(paths, out / "board", tasks=tasks)
    document = json.loads(leaderboard(paths, "json", tasks=tasks))
    return Results(leaderboard(paths, "terminal", tasks=tasks), {"table": document})
