"""A study's table as a document."""

from collections.abc import Iterator, Mapping

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.ablation import Ablation, AblationCell, AblationRow, Claim
from kdbench.reports.board_types import Cell
from kdbench.reports.text import document as text
from kdbench.reports.text.document import Document, Notes, Section, Strong, Table
from kdbench.reports.text.style import difference_cell, p_value, signed, value_cell


def ablation_document(ablation: Ablation, *, headline: bool = False) -> Document:
    """A table a task and metric: value, difference, interval and corrected p of each row.

    Args:
        ablation: the study.
        headline: main metrics only, unless there is none.
    """
    known = [info(column.metric) for column in ablation.columns]
    shown = [i for i, k in enumerate(known) if k.headline or not headline] or range(len(known))
    tables = [_table(ablation, index) for index in shown]
    rule: text.Cell = (
        f"difference: row minus {ablation.base} [95% interval]; ",
        Strong("significant", "*"),
        ": p below 0.05 after Holm's correction",
    )
    papers = any(cell.paper for row in ablation.cells for cell in row)
    sources = ", ".join(filter(None, (ablation.paper, ablation.published_pair)))
    own = [f"paper: difference of its own numbers ({sources}); n.s.: ours may be noise"]
    notes = Notes([rule, *(own if papers else []), *ablation.notes], ablation.signature)
    return Document("", [Section(ablation.title, [*tables, notes])], list(_rows(ablation)))


def _table(ablation: Ablation, index: int) -> Table:
    column = ablation.columns[index]
    cells = [row[index] for row in ablation.cells]
    head = [f"{column.heading} {info(column.metric).label}", "value", "difference", "p (Holm)"]
    head += ["paper"] if any(cell.paper for cell in cells) else []
    rows = [
        [_label(row, ablation), *_fields(cell, column.metric)][: len(head)]
        for row, cell in zip(ablation.rows, cells, strict=True)
    ]
    return Table(head, rows, right=range(1, len(head)))


def _fields(cell: AblationCell, metric: str) -> list[text.Cell]:
    """Value, difference, p and the paper's difference."""
    note = "" if isinstance(cell.value, Missing) else cell.value.note
    value, effect = value_cell(cell.value, metric, note=note), cell.effect
    if effect is None:
        return [value, "", "", _paper(cell.paper, metric)]
    difference = difference_cell(effect, metric, bold=effect.significant)
    return [value, difference, p_value(effect.p_holm), _paper(cell.paper, metric)]


def _paper(claim: Claim | None, metric: str) -> str:
    if claim is None:
        return ""
    words = {True: ", same sign", False: ", opposite sign", None: ""}[claim.same_sign]
    unsure = "" if claim.same_sign is None or claim.significant else " (n.s.)"
    return f"{signed(claim.difference, metric)}{words}{unsure}"


def _label(row: AblationRow, ablation: Ablation) -> str:
    seeds = f" ×{len(row.training_seeds)}" if len(row.training_seeds) > 1 else ""
    return f"{row.label}{' (base)' if row.label == ablation.base else ''}{seeds}"


def _rows(ablation: Ablation) -> Iterator[Mapping[str, object]]:
    """One row a cell."""
    for row, cells in zip(ablation.rows, ablation.cells, strict=True):
        whose = {"row": row.label, "is_base": row.label == ablation.base}
        whose |= {"training_seeds": row.training_seeds, "runs": row.runs}
        for column, cell in zip(ablation.columns, cells, strict=True):
            value, effect, paper = cell.value, cell.effect, cell.paper
            found = value if isinstance(value, Cell) else None
            yield whose | {
                "task": column.task,
                "edition": column.edition,
                "protocol": column.protocol,
                "metric": column.metric,
                "mean": found and found.mean,
                "low": found and found.low,
                "high": found and found.high,
                "difference": effect and effect.difference,
                "difference_low": effect and effect.low,
                "difference_high": effect and effect.high,
                "p": effect and effect.p,
                "p_holm": effect and effect.p_holm,
                "n_prompts": effect.n_prompts if effect else found and found.n_prompts,
                "paper_difference": paper and paper.difference,
                "same_sign": paper and paper.same_sign,
                "reason": value.missing if isinstance(value, Missing) else value.note,
                "signature": ablation.signature,
            }
