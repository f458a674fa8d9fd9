"""What tuning tried, as a document."""

from collections.abc import Sequence
from typing import NamedTuple

from kdbench.reports.text import document as doc
from kdbench.reports.text.style import development_label


class TrialRow(NamedTuple):
    """One trial: its method, number, settings, score on the development set, and whether it won."""

    method: str
    number: int
    settings: list[str]
    score: float | None
    reason: str
    won: bool


def tuning_document(rows: Sequence[TrialRow], metric: str, share: float) -> doc.Document:
    """A table of all trials, the winner of each method bold.

    Args:
        rows: the trials, method by method.
        metric: what they are judged by, as the training logs it.
        share: of the budget that each had.
    """
    label = development_label(metric)
    table = doc.Table(
        ["method", "trial", label, "settings"],
        [[row.method, str(row.number), *_cells(row)] for row in rows],
        right=(1, 2),
        keys=2,
    )
    notes = doc.Notes(
        [
            f"judged on the development set only, each at {share:.0%} of the budget and under one "
            "training seed; trial 1 is the suite's own setting, the others are points of one fixed "
            "sequence in the space that the method's card declares",
            ("the best of each method is ", doc.Strong("marked", "*")),
        ]
    )
    plain = [{**row._asdict(), "settings": " ".join(row.settings)} for row in rows]
    return doc.Document("", [doc.Section("Trials", [table, notes])], plain)


def _cells(row: TrialRow) -> list[doc.Cell]:
    said = " ".join(s.removeprefix("method.").removeprefix("train.") for s in row.settings)
    settings = said or "as the suite says"
    if row.score is None:
        return ["–", f"{settings} ({row.reason})"]
    text = f"{row.score:.2f}"
    return [doc.Strong(text, "*") if row.won else text, settings]
