"""The ledger as text: for a terminal, and as Markdown."""

from collections import Counter
from collections.abc import Iterable

from kdbench.reports.ledger import Ledger, LedgerRow, Verdict
from kdbench.reports.markdown import escape
from kdbench.reports.printable import printable
from kdbench.reports.text import Footnotes, code

VERDICTS: tuple[Verdict, ...] = ("agrees", "differs", "undecided", "not run")
LABELS = {
    "rougeL": "ROUGE-L",
    "exact_match": "EM",
    "gpt4_feedback": "GPT-4",
    "ece": "ECE",
    "accuracy_percent": "accuracy %",
    "distinct_4_percent": "distinct-4 %",
    "lm_loss": "loss",
    "reverse_kl": "reverse KL",
    "reward": "reward",
}
HEAD = ["method", "setting", "task", "metric", "published", "ours", "verdict"]


def render_terminal(found: Ledger, *, everything: bool = False) -> str:
    """Numbers with a run in full; the others counted by reason, or each if ``everything``."""
    footnotes = Footnotes()
    parts = []
    for title, rows in _groups(found.rows):
        shown = rows if everything else [row for row in rows if row.verdict != "not run"]
        if shown:
            table = [HEAD, *(_cells(row, footnotes) for row in shown)]
            parts.append(f"{title}\n{_aligned(table)}")
    rest = [] if everything else [row for row in found.rows if row.verdict == "not run"]
    if rest:
        parts.append("not run\n" + "\n".join(_counted(rest)))
    if footnotes.letters:
        parts.append(
            "\n".join(f"{letter}: {printable(why)}" for why, letter in footnotes.letters.items())
        )
    return "\n\n".join([*parts, *_below(found), f"signature: {found.signature}"]) + "\n"


def render_markdown(found: Ledger) -> str:
    """Every number, one table a paper and pair."""
    footnotes = Footnotes()
    parts = ["# Published numbers and ours"]
    for title, rows in _groups(found.rows):
        lines = [f"## {escape(title)}", "", "| " + " | ".join(HEAD) + " |"]
        lines.append("|:---|:---|:---|:---|---:|---:|:---|")
        for row in rows:
            *cells, verdict = [escape(cell) for cell in _cells(row, footnotes)]
            word = f"**{verdict}**" if row.verdict in ("agrees", "differs") else verdict
            lines.append("| " + " | ".join([*cells, word]) + " |")
        parts.append("\n".join(lines))
    notes = [f"{letter}: {escape(why)}  " for why, letter in footnotes.letters.items()]
    if notes:
        parts.append("\n".join(notes))
    below = [*map(escape, _below(found)), f"`{code(found.signature)}`"]
    return "\n\n".join([*parts, *below]) + "\n"


def _groups(rows: Iterable[LedgerRow]) -> list[tuple[str, list[LedgerRow]]]:
    groups: dict[str, list[LedgerRow]] = {}
    for row in rows:
        groups.setdefault(f"{row.number.paper}, {row.number.pair}", []).append(row)
    return list(groups.items())


def _cells(row: LedgerRow, footnotes: Footnotes) -> list[str]:
    number = row.number
    published = f"{number.value:.{number.digits}f}" + ("†" if number.status == "secondary" else "")
    ours, digits = "", number.digits + (number.digits < 2)
    if row.ours is not None:
        ours = f"{row.ours:.{digits}f}"
        if row.low is not None and row.high is not None:
            ours += f" [{row.low:.{digits}f}, {row.high:.{digits}f}]"
    marks = [footnotes.mark(text) for text in (row.reason, *row.causes) if text]
    return [
        number.method,
        number.setting,
        number.task,
        LABELS[number.metric],
        published,
        ours,
        " ".join([row.verdict, *marks]),
    ]


def _aligned(table: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
    right = {4, 5}
    lines = []
    for line in table:
        cells = [
            f"{cell:>{width}}" if i in right else f"{cell:{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(map(printable, lines))


def _counted(rows: list[LedgerRow]) -> list[str]:
    """One line for the numbers of a paper and pair that share a reason."""
    counts = Counter(
        (f"{r.number.paper}, {r.number.pair}", r.reason.removesuffix(f" with {r.number.method}"))
        for r in rows
    )
    width = max(len(title) for title, _ in counts)
    return [
        printable(f"  {title:{width}}  {count:3} numbers: {reason}")
        for (title, reason), count in counts.items()
    ]


def _below(found: Ledger) -> list[str]:
    counts = Counter(row.verdict for row in found.rows)
    words = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    lines = [f"{len(found.rows)} published numbers: {words}", found.rule]
    if any(row.number.status == "secondary" for row in found.rows):
        lines.append("†: quoted by another source, not read in the paper itself")
    if found.unreproducible:
        lines.append(f"{len(found.unreproducible)} more numbers are reproduced by no suite")
    missing = next((row for row in found.rows if row.reason.startswith("no run of")), None)
    if missing is not None and missing.number.method != "teacher":
        suite = missing.number.suites[0]
        lines.append(f"next: kdbench run --suite {suite} --method {missing.number.method}")
    return ["\n".join(lines)]
