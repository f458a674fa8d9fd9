"""What a study found, as files: a table of differences to the base, or a board if it has none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.config import RunConfig
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.files.folders import board_cache
from kdbench.harness.files.store import write_text
from kdbench.harness.printing import visible_json
from kdbench.harness.references import references_of
from kdbench.harness.study.definition import Study
from kdbench.harness.study.driver import Failure
from kdbench.harness.study.plan import Plan, PlannedCell
from kdbench.harness.study.question import short
from kdbench.harness.study.state import Place, asked_of
from kdbench.reports.ablation import Ablation, About, Given, build_ablation
from kdbench.reports.columns import ColumnKey
from kdbench.reports.documents.ablation import ablation_document
from kdbench.reports.documents.board import board_document
from kdbench.reports.text.document import Document, Notes, Paragraph, Section
from kdbench.reports.text.formats import write


class Results(NamedTuple):
    """What the terminal shows, and the same as plain data; the files are written.

    ``trained``: folders of finished runs whose students were asked nothing.
    """

    shown: Document
    data: dict[str, Any]
    trained: tuple[Path, ...] = ()


def make_results(
    study: Study,
    plan: Plan,
    out: Path,
    failures: Sequence[Failure],
    place: Place | None = None,
    settings: Sequence[str] = (),
) -> Results:
    """Writes ``table.{md,tex,csv,json}`` and ``differences.{svg,png,csv}``, or a board's folder.

    Where nothing was asked there is nothing to compare, and nothing is written. A table shows what the
    study asks for, as rows and scorers are now where ``place`` says where these are; ``settings`` are those
    of the command, over the study's own.
    """
    finished = _finished(plan.cells)
    if not finished:
        nothing = Paragraph("no run of this study is finished yet")
        return Results(Document("", [Section("", [nothing])]), {"table": None})
    config = plan.cells[0].cell.config  # rows differ in their training only
    if not config.tasks.names:
        return _trained(finished)
    if study.base is None:
        return _board([*references(plan.cells), *finished], config, out)
    from kdbench.reports.figures import renew
    from kdbench.reports.figures.ablation import differences

    about = About(config.suite, pair_of(plan.cells), tuple(map(short, (*study.set, *settings))))
    table = _table(study, study.base, about, plan, failures, place)
    data = table.model_dump(mode="json")
    document = ablation_document(table)
    for ending, format in (("md", "md"), ("tex", "latex"), ("csv", "csv")):
        write_text(out / f"table.{ending}", write(document, format))
    write_text(out / "table.json", visible_json(data, indent=1) + "\n")
    renew(differences(table), out / "differences")
    return Results(ablation_document(table, headline=True), {"table": data})


def _trained(finished: Sequence[Path]) -> Results:
    said = Paragraph("trained, nothing was asked")
    folders = [str(path) for path in finished]
    document = Document("", [Section("", [said, Notes(folders)])])
    return Results(document, {"table": None, "trained": folders}, tuple(finished))


def _finished(cells: Sequence[PlannedCell]) -> list[Path]:
    """Folders of the runs that are done, each once."""
    runs = [planned.state.run for planned in cells if planned.state.done]
    return list(dict.fromkeys(run.path for run in runs if run))


def references(cells: Sequence[PlannedCell]) -> list[Path]:
    """Evaluated models that the runs that are done are compared with, each once.

    Rows of other comparisons in the same folder of runs stay away.
    """
    done = [(planned.state.run, planned.cell.config) for planned in cells if planned.state.done]
    found = [references_of(run, config).values() for run, config in done if run]
    folders = [folder for each in found for folder in each if folder.summary.exists()]
    return sorted({folder.path for folder in folders})


def _table(
    study: Study,
    base: str,
    about: About,
    plan: Plan,
    failures: Sequence[Failure],
    place: Place | None,
) -> Ablation:
    reasons = {failure.name: f"failed: {failure.reason}" for failure in failures}
    given = []
    for row in study.all_rows():
        mine = [planned for planned in plan.cells if planned.cell.label == row.label]
        absent = [
            f"seed {planned.cell.seed} {reasons.get(planned.cell.name, 'has not run yet')}"
            for planned in mine
            if not planned.state.done
        ]
        given.append(Given(row.label, _finished(mine), "; ".join(absent)))
    tasks = plan.cells[0].cell.config.tasks
    return build_ablation(
        given,
        title=study.title,
        base=base,
        about=about,
        paper=study.paper,
        published=study.published,
        published_pair=study.published_pair,
        tasks=[task.name for task in tasks_of(tasks)],
        asked=_asked(plan, place),
    )


def pair_of(cells: Sequence[PlannedCell]) -> str:
    """The models of a study's runs, all students if rows differ in them."""
    pairs = [planned.cell.config.pair for planned in cells]
    both = [[pair.teacher for pair in pairs], [pair.student for pair in pairs]]
    return " → ".join(", ".join(dict.fromkeys(map(short, names))) for names in both)


def _asked(plan: Plan, place: Place | None) -> set[ColumnKey]:
    """Where the evaluations stand that the study asks for, of runs that are done."""
    data_dir = place.where.data_dir if place else None
    found = set()
    for cell, state, _ in plan.cells:
        if state.run is not None and state.done:
            config = state.identity.config if state.identity else cell.config
            scores = state.run.summary.read().scores
            for key in asked_of(state.run, config, data_dir, foreign=place is None):
                one = scores[key]
                found.add(ColumnKey(one.task, one.edition, one.protocol, one.column))
    return found


def _board(paths: list[Path], config: RunConfig, out: Path) -> Results:
    """The runs and their reference rows, in every format, below ``out/board``."""
    from kdbench.reports.board import build, leaderboard_folder

    tasks = [task.name for task in tasks_of(config.tasks)]
    leaderboard_folder(paths, out / "board", tasks=tasks, cache=board_cache())
    board = build(paths, tasks=tasks, cache=board_cache()).board
    return Results(board_document(board, headline=True), {"table": board.model_dump(mode="json")})
