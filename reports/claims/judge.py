"""The claims on a board: every test of a claim's family, and the verdict that follows."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from kdbench.harness.records import Missing, Record
from kdbench.harness.store import read_rows
from kdbench.reports import stats
from kdbench.reports.claims.book import Claim, ClaimBook, claim_book
from kdbench.reports.columns import Entry, Found, TaskKey, cell_of, evaluations
from kdbench.reports.group import GroupedRow, Section, sections
from kdbench.reports.load import Identity, find_runs, score_file
from kdbench.reports.metrics import info
from kdbench.reports.model import Cell, Column
from kdbench.reports.pairs import Sample
from kdbench.reports.ranking import row_sample

Verdict = Literal["holds", "does not hold", "not significant", "not measured"]
Outcome = Literal["for", "against", "unclear", "not measured"]


class ClaimTest(Record):
    """One test of a family: the claim's method minus a rival. Without numbers, ``reason`` says why."""

    pair: str
    rival: str
    where: str
    outcome: Outcome
    reason: str = ""
    paired: bool = False
    seeds_measured: bool = False
    method_value: float = 0.0
    rival_value: float = 0.0
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    p: float = 1.0
    p_holm: float = 1.0
    n_prompts: int = 0


class JudgedClaim(Record):
    """A claim, its verdict on one pair of models (or on all), and the tests behind it."""

    claim: Claim
    board: str
    verdict: Verdict
    reason: str
    tests: list[ClaimTest]
    not_evaluated: list[str] = []
    """Tasks of the claim without the metric, or without references of the claim's length."""


class ClaimsReport(Record):
    """All claims on all boards."""

    version: str
    claims: list[JudgedClaim]


class _Board(NamedTuple):
    """The rows of one table that claims may be about."""

    title: str
    rows: dict[str, GroupedRow]
    found: dict[str, Found]


def judge_claims(paths: Iterable[Path | str], book: ClaimBook | None = None) -> ClaimsReport:
    """Tests the claims on the runs under ``paths``, one pair of models at a time.

    Of several rows of a method, the closed one with most training seeds is taken.

    Raises:
        InputError: no finished run, or a file that cannot be read.
    """
    book = book or claim_book()
    identities: dict[str, Identity] = {}
    boards = [_board(section, identities) for section in sections(find_runs(paths)[0])]
    boards = [board for board in boards if board.rows]
    judged = []
    for claim in book.claims:
        if claim.pairs > 1:
            judged.append(_judge(claim, boards, f"{len(boards)} pairs of models"))
        else:
            judged += [_judge(claim, [board], board.title) for board in boards]
    return ClaimsReport(version=book.version, claims=judged)


def _board(section: Section, identities: dict[str, Identity]) -> _Board:
    rows: dict[str, GroupedRow] = {}
    for grouped in section.rows:
        best = rows.get(grouped.row.method)
        if not grouped.row.reference and (best is None or _worth(grouped) > _worth(best)):
            rows[grouped.row.method] = grouped
    title = f"{section.suite}: {section.teacher} → {section.student}"
    return _Board(title, rows, {name: evaluations(row, identities) for name, row in rows.items()})


def _worth(grouped: GroupedRow) -> tuple[bool, int]:
    return (grouped.row.division == "closed", len(grouped.runs))


def _judge(claim: Claim, boards: Sequence[_Board], title: str) -> JudgedClaim:
    tests: list[ClaimTest] = []
    for board in boards if len(boards) >= claim.pairs else []:
        for task in claim.tasks:
            key = _shared_key(claim, task, board)
            if key is not None and _has_references(claim, key, board):
                tests += [_test(claim, rival, key, board) for rival in claim.against]
    tests = _corrected(claim, tests)
    tested = {test.where.partition("[")[0] for test in tests}
    absent = [task for task in claim.tasks if task not in tested]
    verdict, reason = _verdict(claim, tests, boards, absent)
    return JudgedClaim(
        claim=claim,
        board=title,
        verdict=verdict,
        reason=reason,
        tests=tests,
        not_evaluated=absent,
    )


def _shared_key(claim: Claim, task: str, board: _Board) -> TaskKey | None:
    """The evaluation of a task with the claim's metric that most of its methods have."""
    wanted = [claim.method, *claim.against]
    counts: dict[TaskKey, int] = {}
    for name in wanted:
        for key, entries in board.found.get(name, {}).items():
            if key[0] == task and any(claim.metric in entry.metrics for entry in entries):
                counts[key] = counts.get(key, 0) + 1
    return min(counts, key=lambda key: (-counts[key], key)) if counts else None


def _has_references(claim: Claim, key: TaskKey, board: _Board) -> bool:
    """Whether the task has prompts of the claim's reference lengths at all."""
    if claim.references is None:
        return True
    entries = next(found[key] for found in board.found.values() if key in found)
    lengths = _reference_tokens(entries[0]).values()
    return sum(_fits(claim, tokens) for tokens in lengths) >= 2


def _fits(claim: Claim, tokens: int) -> bool:
    low, high = claim.references or (0, None)
    return low <= tokens and (high is None or tokens <= high)


def _test(claim: Claim, rival: str, key: TaskKey, board: _Board) -> ClaimTest:
    where = f"{key[0]}[{key[1]}]"
    for name in (claim.method, rival):
        if name not in board.rows:
            return _unmade(board, rival, where, f"no run of {name}")
        if key not in board.found[name]:
            return _unmade(board, rival, where, f"{name} was not evaluated alike")
    entries = [board.found[name][key] for name in (claim.method, rival)]
    if info(claim.metric).kind == "score":
        return _paired(claim, rival, where, board, entries)
    rows = [board.rows[name] for name in (claim.method, rival)]
    cells = [
        cell_of(row, found, _column(claim, key)) for row, found in zip(rows, entries, strict=True)
    ]
    return _unpaired(claim, rival, where, board, cells)


def _unmade(board: _Board, rival: str, where: str, reason: str) -> ClaimTest:
    return ClaimTest(
        pair=board.title, rival=rival, where=where, outcome="not measured", reason=reason
    )


def _paired(
    claim: Claim, rival: str, where: str, board: _Board, entries: Sequence[Sequence[Entry]]
) -> ClaimTest:
    """Prompt by prompt, over the prompts that both answered."""
    samples = [row_sample(found, claim.metric) for found in entries]
    common = sorted(set(samples[0].ids) & set(samples[1].ids))
    if claim.references is not None:
        lengths = _reference_tokens(entries[0][0])
        common = [name for name in common if _fits(claim, lengths[name])]
    if len(common) < 2:
        return _unmade(board, rival, where, f"{claim.method} and {rival} share no prompts")
    a_SP, b_SP = (_aligned(sample, common) for sample in samples)
    measured = samples[0].measured and samples[1].measured
    result = stats.compare_rows(a_SP, b_SP, seeds_measured=measured)
    return ClaimTest(
        pair=board.title,
        rival=rival,
        where=where,
        outcome="unclear",
        paired=True,
        seeds_measured=result.seeds_measured,
        method_value=float(a_SP.mean()),
        rival_value=float(b_SP.mean()),
        difference=result.difference,
        low=result.low,
        high=result.high,
        p=result.p,
        n_prompts=len(common),
    )


def _aligned(sample: Sample, common: Sequence[str]) -> stats.Array:
    place = {name: column for column, name in enumerate(sample.ids)}
    return np.asarray(sample.values_SP[:, [place[name] for name in common]])


def _reference_tokens(entry: Entry) -> dict[str, int]:
    path = score_file(entry.run, entry.key)
    rows = read_rows(path) if path else []
    return {f"{row['doc_id']}:{row['prompt_hash']}": int(row["reference_tokens"]) for row in rows}


def _unpaired(
    claim: Claim, rival: str, where: str, board: _Board, cells: Sequence[Cell | Missing]
) -> ClaimTest:
    """By the interval of each row, as if they were independent."""
    names = (claim.method, rival)
    values: list[tuple[float, float, int]] = []
    for name, cell in zip(names, cells, strict=True):
        if isinstance(cell, Missing):
            return _unmade(board, rival, where, f"{name}: {cell.missing}")
        if cell.low is None or cell.high is None:
            return _unmade(board, rival, where, f"{name}: measured without an interval")
        error = (cell.high - cell.low) / (2 * stats.t_quantile(0.5 + stats.LEVEL / 2, math.inf))
        values.append((cell.mean, error, cell.n_prompts))
    (a, a_error, prompts), (b, b_error, _) = values
    error = math.hypot(a_error, b_error)
    half = error * stats.t_quantile(0.5 + stats.LEVEL / 2, math.inf)
    p = float(stats.t_two_sided((a - b) / error, math.inf)) if error else float(a == b)
    return ClaimTest(
        pair=board.title,
        rival=rival,
        where=where,
        outcome="unclear",
        method_value=a,
        rival_value=b,
        difference=a - b,
        low=a - b - half,
        high=a - b + half,
        p=p,
        n_prompts=prompts,
    )


def _column(claim: Claim, key: TaskKey) -> Column:
    task, edition, protocol, identity = key
    return Column(
        id=claim.metric,
        task=task,
        edition=edition,
        protocol=protocol,
        metric=claim.metric,
        identity=identity,
        heading=task,
    )


def _corrected(claim: Claim, tests: Sequence[ClaimTest]) -> list[ClaimTest]:
    """Holm over the tests that were made, and what each says about the claim."""
    made = [test for test in tests if not test.reason]
    adjusted = iter(stats.holm([test.p for test in made]).tolist()) if made else iter(())
    sign = 1 if claim.better == "higher" else -1
    result = []
    for test in tests:
        if not test.reason:
            p_holm = float(next(adjusted))
            significant = p_holm < 1 - stats.LEVEL
            towards: Outcome = "for" if sign * test.difference > 0 else "against"
            outcome: Outcome = towards if significant else "unclear"
            test = test.model_copy(update={"p_holm": p_holm, "outcome": outcome})
        result.append(test)
    return result


def _verdict(
    claim: Claim, tests: Sequence[ClaimTest], boards: Sequence[_Board], absent: Sequence[str]
) -> tuple[Verdict, str]:
    outcomes: list[Outcome] = ["for", "against", "unclear", "not measured"]
    counts = {outcome: sum(test.outcome == outcome for test in tests) for outcome in outcomes}
    made = counts["for"] + counts["against"] + counts["unclear"]
    said = f"of {made} tests {counts['for']} for, {counts['against']} against"
    if len(boards) < claim.pairs:
        return "not measured", f"needs {claim.pairs} pairs of models, the runs have {len(boards)}"
    if not tests:
        rows = {name for board in boards for name in board.rows}
        lacking = [name for name in (claim.method, *claim.against) if name not in rows]
        if lacking:
            return "not measured", f"no run of {', '.join(lacking)}"
        what = info(claim.metric).label
        if claim.references is not None:
            what += f" on references of {claim.references[0]} tokens or more"
        return "not measured", f"no {what} of {', '.join(absent)}; {_remedy(claim)}"
    if counts["against"]:
        return "does not hold", said
    if counts["not measured"]:
        return "not measured", _reasons(tests) + (f"; {said}" if made else "")
    return ("holds", said) if counts["unclear"] == 0 else ("not significant", said)


def _reasons(tests: Sequence[ClaimTest]) -> str:
    """Why tests could not be made, each reason once, missing runs together."""
    prefix = "no run of "
    reasons = list(dict.fromkeys(test.reason for test in tests if test.reason))
    lacking = [reason.removeprefix(prefix) for reason in reasons if reason.startswith(prefix)]
    others = [reason for reason in reasons if not reason.startswith(prefix)]
    return "; ".join([prefix + ", ".join(lacking), *others] if lacking else others)


_REMEDIES = {
    "judge_feedback": "measure it with: kdbench judge RUNS",
    "exposure_excess": "measure it with: kdbench eval RUN --probes exposure --teacher teacher",
    "ece": "measure it with: kdbench eval RUN --tasks cls (real data: sst2-cal,boolq-cal)",
    "invalid": "measure it with: kdbench eval RUN --probes truth",
}


def _remedy(claim: Claim) -> str:
    return _REMEDIES.get(
        claim.metric, f"evaluate with: kdbench eval RUN --tasks {','.join(claim.tasks)}"
    )
