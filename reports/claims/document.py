"""Judged claims as a document."""

from collections import Counter

from kdbench.harness import stats
from kdbench.harness.metrics import info
from kdbench.reports.claims.judge import ClaimsReport, ClaimTest, JudgedClaim
from kdbench.reports.runs import grouped
from kdbench.reports.text import document as doc
from kdbench.reports.text.style import PAIRED_T, difference_cell, joined, number, p_value

RULE = (
    "holds: every test of the claim goes its way, significantly after Holm over the claim's tests; "
    "does not hold: one goes the other way, significantly; [95% interval of the difference, "
    "uncorrected]"
)


def claims_document(report: ClaimsReport) -> doc.Document:
    """Verdicts of each board, then the tests behind them, a table a claim."""
    claims = sorted(report.claims, key=lambda judged: judged.claim.pairs > 1)
    boards = grouped(claims, lambda judged: judged.board)
    sections = [doc.Section(title, _parts(claims)) for title, claims in boards.items()]
    sections.append(doc.Section("", [doc.Notes([RULE], _signature(report))]))
    return doc.Document(
        "What the papers claim, on this board",
        sections,
        [row for judged in report.claims for row in _rows(judged)],
    )


def _parts(claims: list[JudgedClaim]) -> list[doc.Part]:
    verdicts: list[list[doc.Cell]] = [
        [doc.Strong(judged.verdict), claim.id, f"{claim.paper}: {claim.says}", why]
        for judged in claims
        for claim, why in [(judged.claim, "; ".join([judged.reason, *_gaps(judged)]))]
    ]
    tests = [_tests(judged) for judged in claims if _made(judged)]
    table = doc.Table(["verdict", "claim", "in words", "why"], verdicts, keys=2)
    return [table, *tests, *_students(claims)]


def _students(claims: list[JudgedClaim]) -> list[doc.Part]:
    """The runs behind the claims of a section, a line a board."""
    used: dict[str, dict[str, list[str]]] = {}
    for judged in claims:
        for board, rows in judged.students.items():
            used.setdefault(board, {}).update(rows)
    lines: list[doc.Cell] = []
    for board, rows in used.items():
        of = f" of {board}" if len(used) > 1 else ""
        named = [f"{label} ({', '.join(run[:4] for run in rows[label])})" for label in sorted(rows)]
        lines.append(f"Students (runs){of}: {'; '.join(named)}")
    return [doc.Notes(lines)] if lines else []


def _made(judged: JudgedClaim) -> list[ClaimTest]:
    return [test for test in judged.tests if not test.reason]


def _gaps(judged: JudgedClaim) -> list[str]:
    """What a claim that was tested was not tested on, and why."""
    if not _made(judged):
        return []
    found = []
    if judged.not_evaluated:
        length = " on references of that length" if judged.claim.references else ""
        what = f"{info(judged.claim.metric).label}{length}"
        found.append(f"no {what}: {', '.join(judged.not_evaluated)}")
    unmade = [f"{t.where}: {t.reason}" for t in judged.tests if t.reason]
    return found + list(dict.fromkeys(unmade)) if judged.verdict != "not measured" else found


def _tests(judged: JudgedClaim) -> doc.Table:
    claim = judged.claim
    metric = claim.metric
    rows: list[list[doc.Cell]] = [
        [
            f"{claim.method} - {test.rival}",
            f"{test.where} {info(metric).label}" + (f", {test.pair}" if claim.pairs > 1 else ""),
            number(test.method_value, metric),
            number(test.rival_value, metric),
            difference_cell(test, metric),
            p_value(test.p_holm),
            test.outcome + _limits(test),
        ]
        for test in _made(judged)
    ]
    head = [claim.id, "on", "first", "second", "difference", "p (Holm)", "outcome"]
    return doc.Table(head, rows, right=(2, 3, 4, 5), keys=2)


def _limits(test: ClaimTest) -> str:
    """What a test does not speak for."""
    said = [
        *([] if test.seeds_measured else ["these students"]),
        *([test.note] if test.note else []),
    ]
    return f" ({'; '.join(said)})" if said else ""


def _signature(report: ClaimsReport) -> str:
    verdicts = Counter(judged.verdict for judged in report.claims)
    said = ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items()))
    made = [test for judged in report.claims for test in _made(judged)]
    tests = "; ".join(dict.fromkeys(map(_kind, made)))
    return joined({report.version: said, "tests": tests})


def _kind(test: ClaimTest) -> str:
    few = f" (these students only: fewer than {stats.MIN_TRAINING_SEEDS} training seeds)"
    if not test.paired:
        return "normal test of two intervals" + ("" if test.seeds_measured else few)
    return PAIRED_T if test.seeds_measured else f"paired randomisation over prompts{few}"


def _rows(judged: JudgedClaim) -> list[dict[str, object]]:
    """One row a test, or one for a claim without any."""
    whose = judged.model_dump(exclude={"tests", "students"})
    return [whose | {"test": test.model_dump()} for test in judged.tests] or [whose]
