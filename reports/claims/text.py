"""Judged claims as text: for a terminal, and as Markdown."""

import textwrap
from collections import Counter

from kdbench.harness.metrics import info
from kdbench.reports.claims.judge import ClaimsReport, ClaimTest, JudgedClaim
from kdbench.reports.markdown import escape
from kdbench.reports.printable import printable
from kdbench.reports.text import number

WIDTH = 100
RULE = (
    "holds: every test of the claim goes its way, significantly after Holm over the claim's tests; "
    "does not hold: one goes the other way, significantly; [95% interval of the difference, "
    "uncorrected]"
)


def render_terminal(report: ClaimsReport) -> str:
    """One paragraph a claim, with a line for each test that was made."""
    parts = []
    for board, claims in _boards(report).items():
        lines = [printable(board), ""]
        for judged in claims:
            lines += [*_claim(judged), ""]
        parts.append("\n".join(lines).rstrip())
    parts.append("\n".join(textwrap.wrap(RULE, WIDTH)) + "\n" + _signature(report))
    return "\n\n".join(parts) + "\n"


def render_markdown(report: ClaimsReport) -> str:
    """A table of verdicts a board, then the tests behind them."""
    parts = ["# What the papers claim, on this board"]
    for board, claims in _boards(report).items():
        lines = [
            f"## {escape(board)}",
            "",
            "| paper | claim | verdict | |",
            "|:---|:---|:---|:---|",
        ]
        for judged in claims:
            why = "; ".join([judged.reason, *_gaps(judged)])
            cells = [judged.claim.paper, judged.claim.says, f"**{judged.verdict}**", why]
            kept = [cell if cell.startswith("**") else escape(cell) for cell in cells]
            lines.append("| " + " | ".join(kept) + " |")
        parts.append("\n".join(lines))
        tests = _tests_table(claims)
        if tests:
            parts += [tests, _students(claims)]
    parts += [escape(RULE), f"`{_signature(report)}`"]
    return "\n\n".join(parts) + "\n"


def _boards(report: ClaimsReport) -> dict[str, list[JudgedClaim]]:
    """By board, in the order of the report; claims over several pairs come last."""
    boards: dict[str, list[JudgedClaim]] = {}
    for judged in sorted(report.claims, key=lambda judged: judged.claim.pairs > 1):
        title = judged.board if judged.claim.pairs == 1 else "across pairs of models"
        boards.setdefault(title, []).append(judged)
    return boards


def _claim(judged: JudgedClaim) -> list[str]:
    claim = judged.claim
    title = f"{judged.verdict.upper()}: {claim.id}"
    says = f"{claim.paper}: {claim.says}"
    lines = [title, *textwrap.wrap(says, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    if judged.verdict == "not measured":
        lines += textwrap.wrap(judged.reason, WIDTH, initial_indent="  ", subsequent_indent="  ")
    made = [test for test in judged.tests if not test.reason]
    width = max((len(test.where) for test in made), default=0)
    lines += [_test(judged, test, width) for test in made]
    lines += [f"  {gap}" for gap in _gaps(judged)]
    return list(map(printable, lines))


def _gaps(judged: JudgedClaim) -> list[str]:
    """What a claim that was tested was not tested on, and why."""
    if not any(not test.reason for test in judged.tests):
        return []
    found = []
    if judged.not_evaluated:
        length = " on references of that length" if judged.claim.references else ""
        what = f"{info(judged.claim.metric).label}{length}"
        found.append(f"no {what}: {', '.join(judged.not_evaluated)}")
    unmade = [f"{t.where}: {t.reason}" for t in judged.tests if t.reason]
    return found + list(dict.fromkeys(unmade)) if judged.verdict != "not measured" else found


def _students(claims: list[JudgedClaim]) -> str:
    """Which runs stood for each method."""
    used = {label: runs for judged in claims for label, runs in judged.students.items()}
    said = [
        f"{escape(label)} ({', '.join(run[:4] for run in used[label])})" for label in sorted(used)
    ]
    return f"Students (runs): {'; '.join(said)}"


def _test(judged: JudgedClaim, test: ClaimTest, width: int) -> str:
    claim = judged.claim
    values = _values(judged, test)
    scope = f" {test.pair}" if claim.pairs > 1 else ""
    what = f"{claim.method} - {test.rival}"
    return (
        f"  {what:17} {test.where:{width}} {info(claim.metric).label:9}"
        f" {values:24} p {_p(test.p_holm):7} {test.outcome}{scope}"
    )


def _values(judged: JudgedClaim, test: ClaimTest) -> str:
    metric = judged.claim.metric
    difference, low, high = (number(v, metric) for v in (test.difference, test.low, test.high))
    return f"{difference} [{low}, {high}]"


def _p(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _tests_table(claims: list[JudgedClaim]) -> str:
    rows = [
        [
            judged.claim.id,
            f"{judged.claim.method} – {test.rival}",
            f"{test.where} {info(judged.claim.metric).label}"
            + (f", {test.pair}" if judged.claim.pairs > 1 else ""),
            *(number(v, judged.claim.metric) for v in (test.method_value, test.rival_value)),
            _values(judged, test),
            _p(test.p_holm),
            test.outcome + ("" if test.seeds_measured or not test.paired else " (these students)"),
        ]
        for judged in claims
        for test in judged.tests
        if not test.reason
    ]
    if not rows:
        return ""
    head = ["claim", "methods", "on", "first", "second", "difference", "p (Holm)", ""]
    lines = ["| " + " | ".join(head) + " |", "|:---|:---|:---|---:|---:|---:|---:|:---|"]
    return "\n".join([*lines, *("| " + " | ".join(map(escape, row)) + " |" for row in rows)])


def _signature(report: ClaimsReport) -> str:
    verdicts = Counter(judged.verdict for judged in report.claims)
    said = ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items()))
    made = [test for judged in report.claims for test in judged.tests if not test.reason]
    kinds = []
    if any(test.paired and test.seeds_measured for test in made):
        kinds.append("paired t over prompts and training seeds")
    if any(test.paired and not test.seeds_measured for test in made):
        kinds.append(
            "paired randomisation over prompts (these students only: fewer than 3 training seeds)"
        )
    if any(not test.paired for test in made):
        kinds.append("normal test of two intervals")
    return f"{report.version}: {said} | tests: {'; '.join(kinds) or 'none'}"
