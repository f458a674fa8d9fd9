"""The ledger as a document."""

from collections import Counter
from collections.abc import Iterable

from kdbench.reports.ledger import Ledger, LedgerRow, Verdict
from kdbench.reports.runs import grouped
from kdbench.reports.text import document as doc
from kdbench.reports.text.style import fixed, interval

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
HEAD = ("method", "setting", "task", "metric", "published", "ours", "verdict")


def ledger_document(found: Ledger, *, everything: bool = True) -> doc.Document:
    """A table a paper and pair.

    Args:
        found: the ledger.
        everything: each number; else those without a run of ours are counted by reason.
    """
    shown = [row for row in found.rows if everything or row.verdict != "not run"]
    rest = [row for row in found.rows if row.verdict == "not run" and not everything]
    sections = [
        doc.Section(title, [doc.Table(HEAD, [_cells(row) for row in rows], right=(4, 5))])
        for title, rows in grouped(shown, _title).items()
    ]
    sections += [doc.Section("not run", [_counted(rest)])] if rest else []
    sections.append(doc.Section("", [doc.Notes(_below(found), found.signature)]))
    rows = [row.model_dump() for row in (*found.rows, *found.unreproducible)]
    return doc.Document("Published numbers and ours", sections, rows)


def _title(row: LedgerRow) -> str:
    return f"{row.number.paper}, {row.number.pair}"


def _cells(row: LedgerRow) -> list[doc.Cell]:
    number = row.number
    published = fixed(number.value, number.digits) + "†" * (number.status == "secondary")
    digits = number.digits + (number.digits < 2)
    ours = "" if row.ours is None else fixed(row.ours, digits)
    bounds = interval(row, "", lambda bound, _: fixed(bound, digits))
    verdict = doc.Strong(row.verdict) if row.verdict in ("agrees", "differs") else row.verdict
    notes = [doc.Note(text) for text in (row.reason, *row.causes) if text]
    names = [number.method, number.setting, number.task, LABELS[number.metric]]
    return [*names, published, (ours, doc.Small(bounds)) if bounds else ours, (verdict, *notes)]


def _counted(rows: Iterable[LedgerRow]) -> doc.Table:
    """One line for the numbers of a paper and pair that share a reason."""
    counts = Counter((_title(r), r.reason.removesuffix(f" with {r.number.method}")) for r in rows)
    lines = [[title, str(count), reason] for (title, reason), count in counts.items()]
    return doc.Table(["paper and models", "numbers", "why"], lines, right=(1,))


def _below(found: Ledger) -> list[doc.Cell]:
    counts = Counter(row.verdict for row in found.rows)
    words = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    lines: list[doc.Cell] = [f"{len(found.rows)} published numbers: {words}", found.rule]
    if any(row.number.status == "secondary" for row in found.rows):
        lines.append("†: quoted by another source, not read in the paper itself")
    if found.unreproducible:
        lines.append(f"{len(found.unreproducible)} more numbers are reproduced by no suite")
    missing = next((row for row in found.rows if row.reason.startswith("no run of")), None)
    if missing is not None and missing.number.method != "teacher":
        suite = missing.number.suites[0]
        lines.append(f"next: kdbench run --suite {suite} --method {missing.number.method}")
    return lines
