"""What ``distill`` found: who stands where, who may be the best, and what to be warned of."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.folders import board_cache
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.metrics import info
from kdbench.harness.progress import duration
from kdbench.reports.board import Built, Table, build
from kdbench.reports.columns import Cell
from kdbench.reports.headline import main_columns
from kdbench.reports.rows import GroupedRow, Section
from kdbench.reports.text import document as doc
from kdbench.reports.verdict import unmeasured, verdict

SECOND = "exact_match"
MORE_SEEDS = "--seeds 10,20,30"


class Standing(NamedTuple):
    """One row: its id and label on the board, its main score, another one, and seconds of training."""

    id: str
    label: str
    method: str
    reference: bool
    score: Cell
    second: Cell | None
    seconds: float | None
    folders: tuple[Path, ...]
    broken: tuple[str, ...] = ()
    """Rules of a fair comparison that it breaks, its data with the test rows among them."""


class Outcome(NamedTuple):
    """The result of a comparison.

    Attributes:
        metric: that decides.
        rows: references first, then methods, the best first.
        best: labels of the methods that may be the best, the highest score first.
        winner: run folder of the first of them.
        lines: the verdict and warnings, sentences.
        seeds_measured: whether the tests know how much training seeds do; else they are about these
            students only.
    """

    metric: str
    rows: list[Standing]
    best: list[str]
    winner: Path
    lines: list[str]
    seeds_measured: bool

    @property
    def decided(self) -> bool:
        """Whether one method is better than all others, also if all were trained again."""
        return self.seeds_measured and len(self.best) == 1

    @property
    def student(self) -> Path:
        """The winner's model folder."""
        return RunFolder(self.winner).training.student


def outcome(folders: Sequence[Path], task: str) -> Outcome:
    """What finished runs and their reference rows say.

    Args:
        folders: of both.
        task: the test.

    Raises:
        InputError: none of the runs has a score.
    """
    built = build(folders, tasks=[task], cache=board_cache())
    table, section = _table(built)
    columns = main_columns(table.columns)
    if not columns:
        raise InputError(
            f"{task} has no score that one can be better in; give test rows with answers"
        )
    rows = _standings(table, section, columns[0])
    methods = [row for row in rows if not row.reference]
    if not methods:
        raise InputError(f"no finished run has a score in {task}; look into the logs")
    best = _best(table, methods)
    return Outcome(
        metric=table.columns[columns[0]].metric,
        rows=rows,
        best=[row.label for row in best],
        winner=_trained_best(best[0]),
        lines=[*_alone(methods), *verdict(built, MORE_SEEDS), *_broken(methods)],
        seeds_measured=not unmeasured(table),
    )


def _table(built: Built) -> tuple[Table, Section]:
    """The table with most runs: other models' evaluations may lie beside it."""
    pairs = list(zip(built.board.tables, built.sections, strict=True))
    return max(pairs, key=lambda each: sum(not row.reference for row in each[0].rows))


def _standings(table: Table, section: Section, place: int) -> list[Standing]:
    other = next((i for i, c in enumerate(table.columns) if c.metric == SECOND), None)
    better = info(table.columns[place].metric).better
    rows = []
    for row, cells, grouped in zip(table.rows, table.cells, section.rows, strict=True):
        score, second = cells[place], cells[other] if other is not None else None
        if isinstance(score, Cell):
            rows.append(
                Standing(
                    id=row.id,
                    label=row.label,
                    method=row.method,
                    reference=row.reference,
                    score=score,
                    second=second if isinstance(second, Cell) else None,
                    seconds=None if row.reference else _seconds(grouped),
                    folders=tuple(run.folder.path for run in grouped.runs),
                    broken=tuple(row.broken),
                )
            )
    return sorted(
        rows, key=lambda r: (not r.reference, 0 if r.reference else -better * r.score.mean)
    )


def _seconds(grouped: GroupedRow) -> float:
    """Seconds of a training, mean over its seeds."""
    costs = [
        run.summary.cost["train"].wall_s for run in grouped.runs if "train" in run.summary.cost
    ]
    return sum(costs) / len(costs) if costs else 0.0


def _best(table: Table, methods: Sequence[Standing]) -> list[Standing]:
    """The first method and all that cannot be told from it, as the headline has it."""
    if table.headline is None:  # one method alone
        return list(methods[:1])
    first = table.headline.places[0]
    alike = {p.row for p in table.headline.places if set(p.alike) & set(first.alike)}
    found = [row for row in methods if row.id in alike]
    return sorted(found, key=lambda row: row.id != first.row) or list(methods[:1])


def _trained_best(row: Standing) -> Path:
    """Of several training seeds that which did best on development rows: never by the test."""

    def dev(folder: Path) -> tuple[float, float]:
        learned = RunFolder(folder).summary.read().learned
        return learned.get("dev_rouge_l_selected", 0.0), -learned.get("dev_loss_selected", 0.0)

    return max(row.folders, key=dev)


def _alone(methods: Sequence[Standing]) -> list[str]:
    return [f"{methods[0].label} is the only method that was trained"] if len(methods) == 1 else []


def _broken(methods: Sequence[Standing]) -> list[str]:
    return [
        f"note: {row.label} breaks rules of a fair comparison: {', '.join(row.broken)}"
        for row in methods
        if row.broken
    ]


def outcome_document(found: Outcome) -> doc.Document:
    """The table; who is "best" is only said where training seeds are measured, else who is "ahead"."""
    first = "best" if found.seeds_measured else "ahead"
    head = ["", info(found.metric).label, "95% interval", info(SECOND).label, first, "training"]
    may = "yes" if len(found.best) == 1 else "maybe"
    rows = []
    for row in found.rows:
        low, high = row.score.low, row.score.high
        rows.append(
            [
                row.label,
                f"{row.score.mean:.1f}",
                f"{low:.1f} to {high:.1f}" if low is not None and high is not None else "",
                f"{row.second.mean:.1f}" if row.second else "",
                "" if row.reference else may if row.label in found.best else "no",
                "" if row.seconds is None else duration(row.seconds),
            ]
        )
    references = sum(row.reference for row in found.rows)
    table = doc.Table(head, rows, right=(1, 3, 5), references=references)
    return doc.Document("", [doc.Section("", [table])])
