"""The claims on a board: every test of a claim's family, and the verdict that follows."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from kdbench.harness import stats
from kdbench.harness.files.records import Missing, Record
from kdbench.harness.files.store import read_rows
from kdbench.harness.metrics import info
from kdbench.reports.claims.book import Claim, ClaimBook, claim_book
from kdbench.reports.columns import Entry, Found, TaskKey, cell_of, evaluations
from kdbench.reports.group import GroupedRow, Section, sections, standing
from kdbench.reports.load import Identity, find_runs, score_file
from kdbench.reports.model import Cell, Column
from kdbench.reports.pairs import aligned
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
    students: dict[str, list[str]] = {}
    """Ids of the runs that stood for each method, by the board's title and the row's label."""


class ClaimsReport(Record):
    """All claims on all boards."""

    version: str
    claims: list[JudgedClaim]


class _Board(NamedTuple):
    """The rows of one table that claims may be about."""

    title: str
    pair: tuple[str, str]
    rows: dict[str, GroupedRow]
    found: dict[str, Found]
    undecided: dict[str, str]
    """Methods with several rows of which none is plainly the method's, and a sentence on each."""

    def absence(self, method: str) -> str:
        """Why no row stands for a method."""
        return self.undecided.get(method, f"no run of {method}")


def judge_claims(paths: Iterable[Path | str], book: ClaimBook | None = None) -> ClaimsReport:
    """Tests the claims on the runs under ``paths``, one pair of models at a time.

    Of several rows of a method the plainest is taken (`kdbench.reports.group.standing`), or none if
    several are.

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
            judged.append(_judge(claim, boards, "across pairs of models"))
        else:
            judged += [_judge(claim, [board], board.title) for board in boards]
    return ClaimsReport(version=book.version, claims=judged)


def _board(section: Section, identities: dict[str, Identity]) -> _Board:
    candidates: dict[str, list[GroupedRow]] = defaultdict(list)
    for grouped in section.rows:
        if not grouped.row.reference:
            candidates[grouped.row.method].append(grouped)
    rows: dict[str, GroupedRow] = {}
    undecided: dict[str, str] = {}
    for method, several in candidates.items():
        best = standing(several)
        if len(best) == 1:
            rows[method] = best[0]
        else:
            labels = ", ".join(grouped.row.label for grouped in best)
            undecided[method] = (
                f"several configurations of {method} ({labels}): give the runs of one"
            )
    return _Board(
        title=f"{section.suite}: {section.teacher} → {section.student}",
        pair=(section.teacher, section.student),
        rows=rows,
        found={name: evaluations(row, identities) for name, row in rows.items()},
        undecided=undecided,
    )


def _judge(claim: Claim, boards: Sequence[_Board], title: str) -> JudgedClaim:
    tests: list[ClaimTest] = []
    for board in boards:
        if claim.pairs > 1 and claim.method not in board.rows:
            continue  # a pair of models that the method was not tried on
        for task in claim.tasks:
            key = _shared_key(claim, task, board)
            if key is not None and _has_references(claim, key, board):
                tests += [_test(claim, rival, key, board) for rival in claim.against]
    tests = _corrected(claim, tests)
    tested = {test.where.partition("[")[0] for test in tests}
    absent = [task for task in claim.tasks if task not in tested]
    verdict, reason = _verdict(claim, tests, boards, absent)
    used = {name for test in tests if not test.reason for name in (claim.method, test.rival)}
    return JudgedClaim(
        claim=claim,
        board=title,
        verdict=verdict,
        reason=reason,
        tests=tests,
        not_evaluated=absent,
        students={
            board.rows[name].row.label: board.rows[name].row.runs
            for board in boards
            for name in sorted(used & board.rows.keys())
        },
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
    named = (claim.method, *claim.against)
    entries = [entry for name in named for entry in board.found.get(name, {}).get(key, ())]
    return sum(_fits(claim, tokens) for tokens in _reference_tokens(entries).values()) >= 2


def _fits(claim: Claim, tokens: int) -> bool:
    low, high = claim.references or (0, None)
    return low <= tokens and (high is None or tokens <= high)


def _test(claim: Claim, rival: str, key: TaskKey, board: _Board) -> ClaimTest:
    where = f"{key[0]}[{key[1]}]"
    for name in (claim.method, rival):
        if name not in board.rows:
            return _unmade(board, rival, where, board.absence(name))
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
        lengths = _reference_tokens([entry for row in entries for entry in row])
        common = [name for name in common if name in lengths and _fits(claim, lengths[name])]
    if len(common) < 2:
        return _unmade(board, rival, where, f"{claim.method} and {rival} share no prompts")
    a_SP, b_SP = (aligned(sample, common) for sample in samples)
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


def _reference_tokens(entries: Sequence[Entry]) -> dict[str, int]:
    """Length of each prompt's shortest reference, from whichever score files are still there."""
    paths = [score_file(entry.run, entry.key) for entry in entries]
    return {
        f"{row['doc_id']}:{row['prompt_hash']}": int(row["reference_tokens"])
        for path in paths
        if path
        for row in read_rows(path)
    }


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
    titles = {test.pair for test in tests if not test.reason}
    pairs = {board.pair for board in boards if board.title in titles}
    if len(pairs) < claim.pairs and claim.pairs > 1:
        had = f"the runs have these methods on {len(pairs)}"
        return "not measured", f"needs {claim.pairs} pairs of models, {had}"
    if not tests:
        lacking = [
            board.absence(name)
            for board in boards
            for name in (claim.method, *claim.against)
            if name not in board.rows
        ]
        if lacking:
            return "not measured", _joined(lacking)
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
    """Why tests could not be made."""
    return _joined([test.reason for test in tests if test.reason])


def _joined(reasons: Sequence[str]) -> str:
    """Each reason once, missing runs together."""
    prefix = "no run of "
    reasons = list(dict.fromkeys(reasons))
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
