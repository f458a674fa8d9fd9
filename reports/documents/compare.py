"""A comparison as a document."""

from collections.abc import Sequence

from kdbench.harness.metrics import info
from kdbench.reports.compare import ColumnComparison, Comparison, PromptDifference
from kdbench.reports.text.document import Cell, Document, Notes, Paragraph, Part, Section, Table
from kdbench.reports.text.style import number, p_value, signed, value_cell

LONGEST = 400
"""Characters of a text that are shown; of a prompt its end, where the question is."""
REFERENCES = 3
HEAD = ("", "a", "b", "a - b", "p", "a wins/ties/losses", "detectable")


def compare_document(comparison: Comparison) -> Document:
    """All columns, and for the first metric of each task the prompts that differ most."""
    tasks: dict[str, list[ColumnComparison]] = {}
    for column in comparison.columns:
        tasks.setdefault(column.heading, []).append(column)
    sides = Section("", [Notes([f"a: {comparison.a}", f"b: {comparison.b}"])])
    below: list[Cell] = []
    if comparison.left_out:
        below.append("left out: " + "; ".join(comparison.left_out))
    if not all(column.seeds_measured for column in comparison.columns):
        below.append(
            "p and intervals hold for these students only: below 3 training seeds a method, "
            "training variance is unmeasured. They are not corrected for several columns."
        )
    end = Section("", [Notes(below, comparison.signature)])
    return Document("", [sides, *map(_task, tasks.values()), end])


def _task(columns: Sequence[ColumnComparison]) -> Section:
    first = columns[0]
    seeds = ",".join(map(str, first.decoding_seeds)) or "none"
    parts: list[Part] = [Table(HEAD, list(map(_numbers, columns)), right=(1, 2, 3, 4, 6))]
    if first.most:
        answers = (
            f"; answers of decoding seed {seeds.partition(',')[0]}" if first.decoding_seeds else ""
        )
        label = info(first.metric).label
        parts.append(Paragraph(f"prompts that differ most in {label} (means over seeds{answers}):"))
        parts += [part for prompt in first.most for part in _prompt(prompt, first.metric)]
    return Section(f"{first.heading}: {first.n_prompts} prompts, decoding seeds {seeds}", parts)


def _numbers(column: ColumnComparison) -> list[Cell]:
    metric = column.metric
    return [
        info(metric).label,
        number(column.a, metric),
        number(column.b, metric),
        value_cell(column.difference, column, metric, written=signed),
        p_value(column.p),
        f"{column.wins}/{column.ties}/{column.losses}",
        number(column.minimum_detectable_effect, metric),
    ]


def _prompt(prompt: PromptDifference, metric: str) -> list[Part]:
    a, b = (number(value, metric) for value in (prompt.a, prompt.b))
    title = Paragraph(f"document {prompt.doc_id}: a {a}, b {b}")
    if not prompt.prompt:
        return [title, Paragraph("no stored answers", note=True)]
    rows = [["prompt", _end(prompt.prompt.strip())]]
    rows += [["reference", _start(text)] for text in prompt.references[:REFERENCES]]
    more = len(prompt.references) - REFERENCES
    rows += [["", f"and {more} more"]] if more > 0 else []
    return [
        title,
        Table([], [*rows, ["a", _start(prompt.answer_a)], ["b", _start(prompt.answer_b)]]),
    ]


def _start(text: str) -> str:
    if not text.strip():
        return "(empty)"
    more = len(text) - LONGEST
    return text if more <= 0 else f"{text[:LONGEST]} … ({more:,} more characters)"


def _end(text: str) -> str:
    more = len(text) - LONGEST
    return text if more <= 0 else f"({more:,} characters before) … {text[-LONGEST:]}"
