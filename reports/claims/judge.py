"""The claims on a board: every test of a claim's family, and the verdict that follows."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kdbench.harness import stats
from kdbench.harness.files.records import Missing, Record
from kdbench.harness.files.store import Say
from kdbench.harness.metrics import info
from kdbench.harness.seed_variance import SeedVariance
from kdbench.reports.claims.book import Claim, ClaimBook, claim_book
from kdbench.reports.columns import Cell, ColumnKey, Entry, Found, cell_of, evaluations
from kdbench.reports.paired import result_fields, row_difference, row_sample, row_seeds
from kdbench.reports.rows import GroupedRow, Section, sections, standing
from kdbench.reports.runs import grouped, prompt_scores, told_runs

Verdict = Literal["holds", "does not hold", "not significant", "not measured"]
Outcome = Literal["for", "against", "unclear", "not measured"]


class ClaimTest(Record):
    """One test of a family: the claim's method minus a rival. Without numbers, ``reason`` says why."""

    pair: str
    rival: str
    where: str
    outcome: Outcome = "unclear"
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
    note: str = ""
    """What the scores do not rest on, such as all training seeds."""


class JudgedClaim(Record):
    """A claim, its verdict on one pair of models (or on all), and the tests behind it."""

    claim: Claim
    board: str
    verdict: Verdict
    reason: str
    tests: list[ClaimTest]
    not_evaluated: list[str] = []
    """Tasks of the claim without the metric, or without references of the claim's length."""
    students: dict[str, dict[str, list[str]]] = {}
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

    def absences(self, claim: Claim) -> list[str]:
        """The same of those of a claim's methods that have no row."""
        return [self.absence(name) for name in claim.methods if name not in self.rows]


def judge_claims(
    paths: Iterable[Path | str], book: ClaimBook | None = None, *, say: Say | None = None
) -> ClaimsReport:
    """Tests the claims on the runs under ``paths``, one pair of models at a time.

    Of several rows of a method the plainest is taken (`kdbench.reports.rows.standing`), or none if
    several are. Where all methods of a claim were searched (``kdbench tune``), what the search found is
    compared; else the other rows, as far as there are any. ``say`` is told of each run that is left out
    since it is damaged.

    Raises:
        InputError: no finished run, or a file that cannot be read.
    """
    book = book or claim_book()
    made = [section for section in sections(told_runs(paths, say)) if _methods(section)]
    kinds = [tuple(_board(section, searched) for searched in (True, False)) for section in made]
    judged = []
    for claim in book.claims:
        boards = [_of_one_kind(claim, *both) for both in kinds]
        if claim.pairs > 1:
            judged.append(_judge(claim, boards, "across pairs of models"))
        else:
            judged += [_judge(claim, [board], board.title) for board in boards]
    return ClaimsReport(version=book.version, claims=judged)


def _methods(section: Section) -> list[GroupedRow]:
    return [each for each in section.rows if not each.row.reference]


def _of_one_kind(claim: Claim, searched: _Board, others: _Board) -> _Board:
    return searched if set(claim.methods) <= searched.rows.keys() else others


def _board(section: Section, searched: bool) -> _Board:
    """What claims are about: rows that a search found, or the others."""
    own = [each for each in _methods(section) if each.row.searched == searched]
    # a method whose only row a search found has no other to show
    there = {each.row.method for each in own}
    alone = [each for each in _methods(section) if each.row.method not in there]
    trained = own if searched else [*own, *alone]
    candidates = grouped(trained, lambda each: each.row.method)
    best = {method: standing(several) for method, several in candidates.items()}
    rows = {method: kept[0] for method, kept in best.items() if len(kept) == 1}
    labels = {m: ", ".join(g.row.label for g in kept) for m, kept in best.items() if m not in rows}
    return _Board(
        title=f"{section.suite}: {section.teacher} → {section.student}",
        pair=(section.teacher, section.student),
        rows=rows,
        found={name: evaluations(row) for name, row in rows.items()},
        undecided={
            method: f"several configurations of {method} ({several}): give the runs of one"
            for method, several in labels.items()
        },
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
            board.title: {board.rows[name].row.label: board.rows[name].row.runs for name in names}
            for board in boards
            if (names := sorted(used & board.rows.keys()))
        },
    )


def _shared_key(claim: Claim, task: str, board: _Board) -> ColumnKey | None:
    """The evaluation of a task with the claim's metric that most of its methods have."""
    counts = Counter(
        key
        for name in claim.methods
        for key, entries in board.found.get(name, {}).items()
        if key.task == task and any(claim.metric in entry.metrics for entry in entries)
    )
    return min(counts, key=lambda key: (-counts[key], key)) if counts else None


def _has_references(claim: Claim, key: ColumnKey, board: _Board) -> bool:
    """Whether the task has prompts of the claim's reference lengths at all."""
    rows = [board.found.get(name, {}) for name in claim.methods]
    entries = [entry for found in rows for entry in found.get(key, ())]
    return claim.references is None or len(_fitting(claim, entries)) >= 2


def _fitting(claim: Claim, entries: Sequence[Entry]) -> set[str]:
    """Prompts whose shortest reference has the claim's length, by the score files that are there."""
    low, high = claim.references or (0, None)
    return {
        name
        for entry in entries
        if entry.evaluation.scores_file.is_file()
        for scores in [prompt_scores(entry.evaluation)]
        for name, tokens in zip(scores.ids, scores.reference_tokens, strict=True)
        if low <= tokens and (high is None or tokens <= high)
    }


def _test(claim: Claim, rival: str, key: ColumnKey, board: _Board) -> ClaimTest:
    names = (claim.method, rival)
    absent = [
        board.absence(name) if name not in board.rows else f"{name} was not evaluated alike"
        for name in names
        if key not in board.found.get(name, {})
    ]
    numbers = _unmade(absent[0]) if absent else _numbers(claim, names, key, board)
    where = f"{key.task}[{key.edition}]"
    return ClaimTest(pair=board.title, rival=rival, where=where, **numbers)


def _numbers(claim: Claim, names: Sequence[str], key: ColumnKey, board: _Board) -> dict[str, Any]:
    """Numbers of a test of two methods that have the evaluation."""
    if info(claim.metric).kind == "score":
        return _paired(claim, names, key, board)
    entries = [board.found[name][key] for name in names]
    rows = [board.rows[name] for name in names]
    seeds = _seeds(claim, names, key, board)
    known = zip(rows, entries, seeds.spreads(), strict=True)
    cells = [cell_of(row, own, claim.metric, *spread) for row, own, spread in known]
    return _unpaired(names, cells, bool(seeds.measured_M.all()))


def _seeds(
    claim: Claim,
    names: Sequence[str],
    key: ColumnKey,
    board: _Board,
    ids: Sequence[str] | None = None,
) -> SeedVariance:
    """Variances between training seeds of some methods, pooled over all of the board where alike.

    Of the mean over these prompts; None: over all.
    """
    there = [name for name, found in board.found.items() if key in found]
    seeds = row_seeds([board.found[name][key] for name in there], claim.metric, ids)
    return seeds.of([there.index(name) for name in names])


def _unmade(reason: str) -> dict[str, Any]:
    """Of a test that could not be made."""
    return {"outcome": "not measured", "reason": reason}


def _paired(claim: Claim, names: Sequence[str], key: ColumnKey, board: _Board) -> dict[str, Any]:
    """Numbers of a test prompt by prompt, over the prompts that both answered; or why there is none.

    A claim about some references has the seeds' variance on the prompts of these: on all it is another.
    """
    entries = [board.found[name][key] for name in names]
    a, b = (row_sample(found, claim.metric) for found in entries)
    common = set(a.ids) & set(b.ids)
    if claim.references is not None:
        common &= _fitting(claim, [entry for row in entries for entry in row])
    ids = sorted(common)
    seeds = _seeds(claim, names, key, board, None if claim.references is None else ids)
    result = row_difference(a, b, ids, seeds)
    if result is None:
        return _unmade(f"{names[0]} and {names[1]} share no prompts")
    values = {"method_value": float(a.at(ids).mean()), "rival_value": float(b.at(ids).mean())}
    return {"paired": True, "n_prompts": len(ids)} | values | result_fields(result)


def _unpaired(
    names: Sequence[str], cells: Sequence[Cell | Missing], seeds_measured: bool
) -> dict[str, Any]:
    """Numbers of a test by the interval of each row, as if they were independent; or why not."""
    z = stats.t_quantile(0.5 + stats.LEVEL / 2, math.inf)
    errors = []
    for name, cell in zip(names, cells, strict=True):
        if isinstance(cell, Missing):
            return _unmade(f"{name}: {cell.missing}")
        if cell.low is None or cell.high is None:
            return _unmade(f"{name}: measured without an interval")
        errors.append((cell.high - cell.low) / (2 * z))
    a, b = (cell.mean for cell in cells if isinstance(cell, Cell))
    error = math.hypot(*errors)
    return {
        "seeds_measured": seeds_measured,
        "method_value": a,
        "rival_value": b,
        "difference": a - b,
        "low": a - b - z * error,
        "high": a - b + z * error,
        "p": float(stats.t_two_sided((a - b) / error, math.inf)) if error else float(a == b),
        "n_prompts": cells[0].n_prompts if isinstance(cells[0], Cell) else 0,
        "note": "; ".join(dict.fromkeys(c.note for c in cells if isinstance(c, Cell) and c.note)),
    }


def _corrected(claim: Claim, tests: Sequence[ClaimTest]) -> list[ClaimTest]:
    """Holm over the tests that were made, and what each says about the claim."""
    adjusted = iter(stats.holm([test.p for test in tests if not test.reason]).tolist())
    sign = 1 if claim.better == "higher" else -1

    def corrected(test: ClaimTest) -> ClaimTest:
        p_holm = next(adjusted)
        towards = "for" if sign * test.difference > 0 else "against"
        outcome = towards if p_holm < 1 - stats.LEVEL else "unclear"
        return test.model_copy(update={"p_holm": p_holm, "outcome": outcome})

    return [test if test.reason else corrected(test) for test in tests]


def _verdict(
    claim: Claim, tests: Sequence[ClaimTest], boards: Sequence[_Board], absent: Sequence[str]
) -> tuple[Verdict, str]:
    counts = Counter(test.outcome for test in tests)
    made = counts["for"] + counts["against"] + counts["unclear"]
    said = f"of {made} tests {counts['for']} for, {counts['against']} against"
    titles = {test.pair for test in tests if not test.reason}
    pairs = {board.pair for board in boards if board.title in titles}
    if len(pairs) < claim.pairs and claim.pairs > 1:
        had = f"the runs have these methods on {len(pairs)}"
        return "not measured", f"needs {claim.pairs} pairs of models, {had}"
    if not tests:
        if lacking := [absence for board in boards for absence in board.absences(claim)]:
            return "not measured", _joined(lacking)
        what = info(claim.metric).label
        if claim.references is not None:
            what += f" on references of {claim.references[0]} tokens or more"
        return "not measured", f"no {what} of {', '.join(absent)}; {_remedy(claim)}"
    if counts["against"]:
        return "does not hold", said
    if counts["not measured"]:
        reasons = _joined([test.reason for test in tests if test.reason])
        return "not measured", reasons + (f"; {said}" if made else "")
    return ("holds", said) if counts["unclear"] == 0 else ("not significant", said)


def _joined(reasons: Sequence[str]) -> str:
    """Each reason once, missing runs together."""
    prefix = "no run of "
    reasons = list(dict.fromkeys(reasons))
    lacking = [reason.removeprefix(prefix) for reason in reasons if reason.startswith(prefix)]
    others = [reason for reason in reasons if not reason.startswith(prefix)]
    return "; ".join([prefix + ", ".join(lacking), *others] if lacking else others)


_REMEDIES = {
    "exposure_excess": "measure it with: kdbench eval RUN --probes exposure --teacher teacher",
    "ece": "measure it with: kdbench eval RUN --tasks cls (real data: sst2-cal,boolq-cal)",
    "invalid": "measure it with: kdbench eval RUN --probes truth",
}


def _remedy(claim: Claim) -> str:
    if info(claim.metric).kind == "judge":
        return "measure it with: kdbench judge RUNS"
    evaluate = f"evaluate with: kdbench eval RUN --tasks {','.join(claim.tasks)}"
    return _REMEDIES.get(claim.metric, evaluate)
