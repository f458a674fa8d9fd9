"""A comparison as a person reads it on a terminal. Texts of models cannot touch the terminal."""

from kdbench.harness.metrics import info
from kdbench.reports.compare import ColumnComparison, Comparison, PromptDifference
from kdbench.reports.printable import printable
from kdbench.reports.text import number

LONGEST = 400
"""Characters of a text that are shown; of a prompt its end, where the question is."""
REFERENCES = 3


def render_comparison(comparison: Comparison) -> str:
    """All columns, and for the first metric of each task the prompts that differ most."""
    parts = [
        f"a: {printable(comparison.a)}\nb: {printable(comparison.b)}",
        *(_task(columns) for columns in _by_task(comparison)),
    ]
    if comparison.left_out:
        parts.append("left out: " + printable("; ".join(comparison.left_out)))
    if not all(column.seeds_measured for column in comparison.columns):
        parts.append(
            "p and intervals hold for these students only: below 3 training seeds a method,\n"
            "training variance is unmeasured. They are not corrected for several columns."
        )
    parts.append(f"signature: {printable(comparison.signature)}")
    return "\n\n".join(parts) + "\n"


def _by_task(comparison: Comparison) -> list[list[ColumnComparison]]:
    tasks: dict[str, list[ColumnComparison]] = {}
    for column in comparison.columns:
        tasks.setdefault(column.heading, []).append(column)
    return list(tasks.values())


def _task(columns: list[ColumnComparison]) -> str:
    first = columns[0]
    seeds = ",".join(map(str, first.decoding_seeds)) or "none"
    lines = [
        f"{first.heading}: {first.n_prompts} prompts, decoding seeds {seeds}",
        "",
        f"{'':10}{'a':>8}{'b':>8}   {'a - b':24}{'p':>7}   a wins/ties/losses  detectable",
    ]
    for column in columns:
        values = [column.difference, column.low, column.high, column.minimum_detectable_effect]
        difference, low, high, least = (number(value, column.metric) for value in values)
        a, b = (number(value, column.metric) for value in (column.a, column.b))
        record = f"{column.wins}/{column.ties}/{column.losses}"
        p = "<0.0001" if column.p < 0.0001 else f"{column.p:.4f}"
        lines.append(
            f"{info(column.metric).label:10}{a:>8}{b:>8}   {f'{difference} [{low}, {high}]':24}"
            f"{p:>7}   {record:18}  {least}"
        )
    if first.most:
        means = "means over seeds"
        if first.decoding_seeds:
            means += f"; answers of decoding seed {first.decoding_seeds[0]}"
        lines += ["", f"prompts that differ most in {info(first.metric).label} ({means}):"]
        lines += [_prompt(prompt, first.metric) for prompt in first.most]
    return "\n".join(lines)


def _prompt(prompt: PromptDifference, metric: str) -> str:
    a, b = (number(value, metric) for value in (prompt.a, prompt.b))
    lines = ["", f"document {prompt.doc_id}: a {a}, b {b}"]
    if not prompt.prompt:
        return "\n".join([*lines, "  no stored answers"])
    lines.append(f"  prompt     {_end(prompt.prompt)}")
    lines += [f"  reference  {_start(text)}" for text in prompt.references[:REFERENCES]]
    more = len(prompt.references) - REFERENCES
    if more > 0:
        lines.append(f"             and {more} more")
    lines += [f"  a          {_start(prompt.answer_a)}", f"  b          {_start(prompt.answer_b)}"]
    return "\n".join(lines)


def _start(text: str) -> str:
    if not text.strip():
        return "(empty)"
    return printable(text if len(text) <= LONGEST else text[:LONGEST] + " …")


def _end(text: str) -> str:
    text = text.strip()
    return printable(text if len(text) <= LONGEST else "… " + text[-LONGEST:])
