"""A board as data: CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable

from kdbench.harness.files.records import Missing
from kdbench.reports.model import Board, Cell, Column, Row, Table

_FIELDS: dict[str, Callable[[Table, Row, Column, Cell | None], object]] = {
    "suite": lambda t, r, c, v: t.suite,
    "teacher": lambda t, r, c, v: t.teacher,
    "student": lambda t, r, c, v: t.student,
    "row": lambda t, r, c, v: r.label,
    "kind": lambda t, r, c, v: r.kind,
    "method": lambda t, r, c, v: r.method,
    "variant": lambda t, r, c, v: r.variant,
    "regime": lambda t, r, c, v: r.regime,
    "division": lambda t, r, c, v: r.division,
    "training_seeds": lambda t, r, c, v: " ".join(map(str, r.training_seeds)),
    "runs": lambda t, r, c, v: " ".join(r.runs),
    "task": lambda t, r, c, v: c.task,
    "edition": lambda t, r, c, v: c.edition,
    "protocol": lambda t, r, c, v: c.protocol,
    "evaluation": lambda t, r, c, v: c.identity,
    "metric": lambda t, r, c, v: c.metric,
    "mean": lambda t, r, c, v: v.mean if v else "",
    "low": lambda t, r, c, v: "" if v is None or v.low is None else v.low,
    "high": lambda t, r, c, v: "" if v is None or v.high is None else v.high,
    "n_prompts": lambda t, r, c, v: v.n_prompts if v else "",
    "n_runs": lambda t, r, c, v: v.n_runs if v else "",
    "decoding_seeds": lambda t, r, c, v: " ".join(map(str, v.decoding_seeds)) if v else "",
    "bold": lambda t, r, c, v: int(v.bold) if v else "",
}


def render_csv(board: Board) -> str:
    """One line a cell, so that a data frame reads it as it is; reasons, signature and notes included."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([*_FIELDS, "reason", "signature", "notes"])
    for table in board.tables:
        for row, cells in zip(table.rows, table.cells, strict=True):
            for column, cell in zip(table.columns, cells, strict=True):
                value = cell if isinstance(cell, Cell) else None
                reason = cell.missing if isinstance(cell, Missing) else cell.note
                values = [field(table, row, column, value) for field in _FIELDS.values()]
                values += [reason, table.signature, "; ".join(table.notes)]
                writer.writerow(map(_no_formula, values))
    return sink.getvalue()


def _no_formula(value: object) -> object:
    """Text that a spreadsheet would run gets a ``'`` in front, which makes it text there too."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    return value if all(map(_is_number, value.split())) else f"'{value}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def render_json(board: Board) -> str:
    """The board as it is (``model.Board``)."""
    return visible_json(board.model_dump(mode="json"), indent=1) + "\n"


def visible_json(value: object, *, indent: int) -> str:
    """JSON with every invisible character as an escape; it reads back as the same value."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
