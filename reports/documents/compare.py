"""A comparison as a document."""

from collections.abc import Sequence

from kdbench.harness.metrics import info
from kdbench.reports.compare import ColumnComparison, Comparison, PromptDifference
from kdbench.reports.documents.headline import headline_parts
from kdbench.reports.runs import grouped
from kdbench.reports.text import document as doc
from kdbench.reports.text.style import difference_cell, number, p_value

LONGEST = 400
"""Characters of a text that are shown; of a prompt its end, where the question is."""
REFERENCES = 3
HEAD = ("", "a", "b", "a - b", "p", "a wins/ties/losses", "detectable")


def compare_document(comparison: Comparison) -> doc.Document:
    """All columns, and for the first metric of each task the prompts that differ most."""
    tasks = grouped(comparison.columns, lambda column: column.heading)
    named = (("a", comparison.a, comparison.pair_a), ("b", comparison.b, comparison.pair_b))
    sides = doc.Section("", [doc.Notes([f"{side}: {row} ({pair})" for side, row, pair in named])])
    first = doc.Section("", headline_parts(comparison.headline) if comparison.headline else [])
    below: list[doc.Cell] = []
    if comparison.left_out:
        below.append("left out: " + "; ".join(comparison.left_out))
    if over := sorted({column.pooled_over for column in comparison.columns} - {0}):
        apart = [
            f"{c.heading} {info(c.metric).label}" for c in comparison.columns if not c.pooled_over
        ]
        but = f"; not alike, so each its own, in {', '.join(apart)}" if apart else ""
        rows = "/".join(map(str, over))
        below.append(f"variance between training seeds: pooled over {rows} rows of this suite{but}")
    if not all(column.seeds_measured for column in comparison.columns):
        below.append(
            "p and intervals hold for these students only: below 2 training seeds a method, "
            "training variance is unmeasured. They are not corrected for several columns."
        )
    end = doc.Section("", [doc.Notes(below, comparison.signature)])
    return doc.Document("", [sides, first, *map(_task, tasks.values()), end])


def _task(columns: Sequence[ColumnComparison]) -> doc.Section:
    first = columns[0]
    seeds = ",".join(map(str, first.decoding_seeds)) or "none"
    parts: list[doc.Part] = [doc.Table(HEAD, list(map(_numbers, columns)), right=(1, 2, 3, 4, 6))]
    if first.most:
        drawn = first.decoding_seeds[:1]
        means = "; ".join(["means over seeds", *(f"answers of decoding seed {n}" for n in drawn)])
        most = f"prompts that differ most in {info(first.metric).label} ({means}):"
        parts.append(doc.Paragraph(most))
        parts += [part for prompt in first.most for part in _prompt(prompt, first.metric)]
    return doc.Section(f"{first.heading}: {first.n_prompts} prompts, decoding seeds {seeds}", parts)


def _numbers(column: ColumnComparison) -> list[doc.Cell]:
    metric = column.metric
    values = (column.a, column.b, column.minimum_detectable_effect)
    a, b, detectable = (number(value, metric) for value in values)
    tested = [difference_cell(column, metric), p_value(column.p)]
    counts = f"{column.wins}/{column.ties}/{column.losses}"
    return [info(metric).label, a, b, *tested, counts, detectable]


def _prompt(prompt: PromptDifference, metric: str) -> list[doc.Part]:
    a, b = (number(value, metric) for value in (prompt.a, prompt.b))
    title = doc.Paragraph(f"document {prompt.doc_id}: a {a}, b {b}")
    if not prompt.prompt:
        return [title, doc.Paragraph("no stored answers", note=True)]
    rows = [["prompt", _end(prompt.prompt.strip())]]
    rows += [["reference", _start(text)] for text in prompt.references[:REFERENCES]]
    more = len(prompt.references) - REFERENCES
    rows += [["", f"and {more} more"]] if more > 0 else []
    rows += [["a", _start(prompt.answer_a)], ["b", _start(prompt.answer_b)]]
    return [title, doc.Table([], rows)]


def _start(text: str) -> str:
    if not text.strip():
        return "(empty)"
    more = len(text) - LONGEST
    return text if more <= 0 else f"{text[:LONGEST]} … ({more:,} more characters)"


def _end(text: str) -> str:
    more = len(text) - LONGEST
    return text if more <= 0 else f"({more:,} characters before) … {text[-LONGEST:]}"
