"""A study's table as a document."""

from collections.abc import Iterator, Mapping

from kdbench.harness.metrics import info
from kdbench.reports.ablation import Ablation, AblationCell, Claim
from kdbench.reports.documents.board import label, reason, shown, value
from kdbench.reports.text import document as doc
from kdbench.reports.text.style import difference_cell, p_value, signed

EFFECT = {
    "difference": "difference",
    "difference_low": "low",
    "difference_high": "high",
    "p": "p",
    "p_holm": "p_holm",
}
"""What data frames call the fields of an effect."""


def ablation_document(ablation: Ablation, *, headline: bool = False) -> doc.Document:
    """A table a task and metric: value, difference, interval and corrected p of each row.

    Args:
        ablation: the study.
        headline: main metrics only, unless there is none.
    """
    tables = [_table(ablation, i) for i in shown(ablation.columns, headline=headline)]
    rule: doc.Cell = (
        f"difference: row minus {ablation.base} [95% interval]; ",
        doc.Strong("significant", "*"),
        ": p below 0.05 after Holm's correction",
    )
    papers = any(cell.paper for row in ablation.cells for cell in row)
    sources = ", ".join(filter(None, (ablation.paper, ablation.published_pair)))
    own = [f"paper: difference of its own numbers ({sources}); n.s.: ours may be noise"]
    notes = doc.Notes([rule, *(own if papers else []), *ablation.notes], ablation.signature)
    return doc.Document("", [doc.Section(ablation.title, [*tables, notes])], list(_rows(ablation)))


def _table(ablation: Ablation, index: int) -> doc.Table:
    column = ablation.columns[index]
    cells = [row[index] for row in ablation.cells]
    head = [f"{column.heading} {info(column.metric).label}", "value", "difference", "p (Holm)"]
    head += ["paper"] if any(cell.paper for cell in cells) else []
    rows = [
        [
            label(row.label + " (base)" * (row.label == ablation.base), row.training_seeds),
            *_fields(cell, column.metric),
        ][: len(head)]
        for row, cell in zip(ablation.rows, cells, strict=True)
    ]
    return doc.Table(head, rows, right=range(1, len(head)))


def _fields(cell: AblationCell, metric: str) -> list[doc.Cell]:
    """Value, difference, p and the paper's difference."""
    mean, effect, paper = value(cell.value, metric), cell.effect, _paper(cell.paper, metric)
    if effect is None:
        return [mean, "", "", paper]
    difference = difference_cell(effect, metric, bold=effect.significant)
    return [mean, difference, p_value(effect.p_holm), paper]


def _paper(claim: Claim | None, metric: str) -> str:
    if claim is None:
        return ""
    words = {True: ", same sign", False: ", opposite sign", None: ""}[claim.same_sign]
    unsure = "" if claim.same_sign is None or claim.significant else " (n.s.)"
    return f"{signed(claim.difference, metric)}{words}{unsure}"


def _rows(ablation: Ablation) -> Iterator[Mapping[str, object]]:
    """One row a cell."""
    for row, cells in zip(ablation.rows, ablation.cells, strict=True):
        whose = {"row": row.label, "is_base": row.label == ablation.base}
        whose |= {"training_seeds": row.training_seeds, "runs": row.runs}
        for column, cell in zip(ablation.columns, cells, strict=True):
            effect, paper, found = cell.effect, cell.paper, cell.value
            yield (
                whose
                | column.model_dump(include={"task", "edition", "protocol", "metric"})
                | {name: getattr(found, name, None) for name in ("mean", "low", "high")}
                | {name: getattr(effect, field, None) for name, field in EFFECT.items()}
                | {"n_prompts": getattr(effect or found, "n_prompts", None)}
                | {"paper_difference": paper and paper.difference}
                | {"same_sign": paper and paper.same_sign}
                | {"reason": reason(found), "signature": ablation.signature}
            )
