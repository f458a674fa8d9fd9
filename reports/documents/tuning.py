"""What tuning tried, as a document."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdbench.reports.text import document as doc
from kdbench.reports.text.style import development_label, joined


class TrialRow(NamedTuple):
    """One trial: its method, number, settings, score on the development set, and whether it won.

    ``whole`` is the score of the same settings at the whole budget, of those that were trained there.
    """

    method: str
    number: int
    settings: list[str]
    score: float | None
    whole: float | None
    reason: str
    won: bool


def tuning_document(
    rows: Sequence[TrialRow], metric: str, share: float, about: Mapping[str, Any] | None = None
) -> doc.Document:
    """A table of all trials, the winner of each method bold.

    Args:
        rows: the trials, method by method.
        metric: what they are judged by, as the training logs it.
        share: of the budget that each had.
        about: what all trials share.
    """
    label = development_label(metric)
    again = any(row.whole is not None for row in rows)
    at = ["at the whole budget"] if again else []
    table = doc.Table(
        ["method", "trial", label, *at, "settings"],
        [[row.method, str(row.number), *_cells(row, again)] for row in rows],
        right=(1, 2, 3) if again else (1, 2),
        keys=2,
    )
    finals = (
        "the best and trial 1 were then trained at the whole budget, where the better one is kept"
    )
    notes = doc.Notes(
        [
            f"judged on the development set only, each at {share:.0%} of the budget and under one "
            "training seed; trial 1 is the suite's own setting, the others are points of one fixed "
            "sequence in the space that the method's card declares",
            *([finals] if again else []),
            ("what each method keeps is ", doc.Strong("marked", "*")),
        ],
        joined({name: _text(value) for name, value in (about or {}).items()}),
    )
    plain = [{**row._asdict(), "settings": " ".join(row.settings)} for row in rows]
    return doc.Document("", [doc.Section("Trials", [table, notes])], plain)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cells(row: TrialRow, again: bool) -> list[doc.Cell]:
    said = " ".join(s.removeprefix("method.").removeprefix("train.") for s in row.settings)
    settings = said or "as the suite says"
    if row.score is None:
        return ["–", *([""] if again else []), f"{settings} ({row.reason})"]
    scores = [row.score, row.whole] if again else [row.score]
    texts = ["" if score is None else f"{score:.2f}" for score in scores]
    judged = max(
        place for place, text in enumerate(texts) if text
    )  # at the whole budget, if it was there
    marked = [
        doc.Strong(text, "*") if row.won and place == judged else text
        for place, text in enumerate(texts)
    ]
    return [*marked, settings]
