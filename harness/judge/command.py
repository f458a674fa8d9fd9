"""``kdbench judge``: plan, ask, record, summarise."""

import contextlib
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.config import slug
from kdbench.harness.endpoints import OPENAI_URL, checked_url
from kdbench.harness.errors import InputError
from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.records import JudgeRecord, JudgeScores, JudgeSummary, VerdictRow
from kdbench.harness.files.run_folder import RunFolder, find_runs
from kdbench.harness.judge import printing
from kdbench.harness.judge.asking import Asking, Question, Stop, unreadable
from kdbench.harness.judge.budget import Budget, settle_recorded
from kdbench.harness.judge.calls import Answered, Call, calls_about, stored_answers
from kdbench.harness.judge.definition import JudgeDefinition, judge_id
from kdbench.harness.judge.parsing import read
from kdbench.harness.judge.results import judge_scores
from kdbench.harness.judge.verdict_log import VerdictLog, recorded
from kdbench.harness.progress import Progress

STATES = ("error", "refused", "truncated", "unparsed")


class JudgeRequest(NamedTuple):
    """One call of the verb.

    Args:
        runs: run folders, or folders of runs.
        judge: who judges; ``base_url`` and ``key_env`` already as the flags say.
        against: pairwise: run folder to compare with; None: the references.
        tasks: task names; None: all.
        limit: first N prompts of each evaluation.
        dry_run: count and price, ask nothing, write nothing.
        max_cost: limit in the currency of the judge's prices.
        retry: states whose recorded answers are asked again.
        replay: file or folder of verdicts to answer from instead of the network.
        json_output: print one JSON document.
        quiet: no progress lines.
    """

    runs: Sequence[Path]
    judge: JudgeDefinition
    against: Path | None = None
    tasks: Sequence[str] | None = None
    limit: int | None = None
    dry_run: bool = False
    max_cost: float | None = None
    retry: frozenset[str] = frozenset()
    replay: Path | None = None
    json_output: bool = False
    quiet: bool = False


class Target(NamedTuple):
    """One evaluation, its questions and what is recorded of their answers."""

    answered: Answered
    calls: list[Call]
    log: VerdictLog


def judge_command(request: JudgeRequest) -> int:
    """Judges stored answers; returns 0, or 1 if a value is missing or not all could be asked."""
    judge = request.judge
    _check(request)
    other = RunFolder(request.against.resolve()) if request.against else None
    given = judge.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    base_url = checked_url(given, "the judge's base URL", "--judge-base-url")
    record = JudgeRecord(
        judge=judge_id(judge, base_url, slug(other.name) if other else None),
        definition=judge.model_dump(mode="json"),
        base_url=base_url,
        against=other.name if other else None,
    )
    targets = _targets(request, record, other)
    if request.dry_run:
        questions = _questions(request, targets)
        known = len(_keys(targets)) - len(questions)
        calls = [question.call for question in questions]
        printing.print_plan(judge, record, calls, known, json_output=request.json_output)
        return 0
    progress = Progress(quiet=request.quiet or request.json_output)
    with contextlib.ExitStack() as stack:
        for target in targets:
            stack.enter_context(RunLock(target.log.folder.path))
        # read again under the locks: another process may have added to them meanwhile
        targets = [t._replace(log=VerdictLog(t.log.folder)) for t in targets]
        for target in targets:
            target.log.folder.record.write(record)
            settle_recorded(judge, target.log)
        stopped = _answer(request, base_url, targets, progress)
        found = [(t.answered, judge_scores(judge, t.answered, t.calls, t.log)) for t in targets]
        for run in dict.fromkeys(answered.run for answered, _ in found):
            _summarise(run, request, record, found)
    printing.print_results(
        record.judge, found, stopped, request.runs, json_output=request.json_output
    )
    missing = any(printing.reasons(scores.metrics) for _, scores in found)
    return 1 if missing or stopped else 0


def _check(request: JudgeRequest) -> None:
    if request.max_cost is not None and request.judge.prices is None:
        raise InputError(
            f"--max-cost needs the prices of {request.judge.model}; give them in its YAML "
            "or by --set prices.input=… prices.output=… prices.date=… (of a million tokens)"
        )
    if request.against is not None and request.judge.mode != "pairwise":
        raise InputError(
            "--against compares two runs; it needs a pairwise judge, as in --judge pairwise"
        )
    if bad := request.retry - {*STATES}:
        raise InputError(
            f"--retry takes states among {', '.join(STATES)}, not {', '.join(sorted(bad))}"
        )
    if request.replay is not None and not request.replay.exists():
        raise InputError(
            f"no recorded verdicts {request.replay}; give a verdicts.jsonl or a folder"
        )


def _targets(request: JudgeRequest, record: JudgeRecord, other: RunFolder | None) -> list[Target]:
    """Every finished evaluation of the runs, with its questions."""
    judge, targets = request.judge, []
    runs = [run for run in find_runs(request.runs) if run.summary.exists() and run != other]
    evaluations = [(run, evaluation) for run in runs for evaluation in run.evaluations()]
    for run, evaluation in evaluations:
        if request.tasks is not None and evaluation.task not in request.tasks:
            continue
        answered = stored_answers(run, evaluation, limit=request.limit, most_seeds=judge.seeds)
        if answered is None:
            continue
        theirs = None
        if other is not None:
            place = other.evaluation(evaluation.key)
            theirs = stored_answers(other, place, limit=None, most_seeds=judge.seeds)
            if theirs is None:
                raise InputError(
                    f"{request.against} has not finished {evaluation.key}; run: "
                    f"kdbench eval {shlex.quote(str(request.against))}"
                )
        calls = calls_about(judge, record.base_url, answered, theirs)
        targets.append(Target(answered, calls, VerdictLog(evaluation.judge(record.judge))))
    if not targets:
        tasks = f" of {', '.join(request.tasks)}" if request.tasks else ""
        raise InputError(
            f"no finished answers{tasks} below {', '.join(map(str, request.runs))}; make some with "
            "kdbench run or kdbench eval"
        )
    return targets


def _keys(targets: Sequence[Target]) -> set[str]:
    return {call.key for target in targets for call in target.calls}


def _best(
    judge: JudgeDefinition, targets: Sequence[Target], more: Iterable[VerdictRow] = ()
) -> dict[str, VerdictRow]:
    """What any of the logs knows, and of ``more``, by question: an answer with a verdict before any other."""
    rows = (target.log.verdict(call.key) for target in targets for call in target.calls)
    found: dict[str, VerdictRow] = {}
    for row in (*rows, *more):
        if row is not None and (
            row.key not in found or _worth(judge, row) < _worth(judge, found[row.key])
        ):
            found[row.key] = row
    return found


def _state(judge: JudgeDefinition, row: VerdictRow) -> str:
    """As its response is read today."""
    return read(judge, row.status, row.body).state


def _worth(judge: JudgeDefinition, row: VerdictRow) -> int:
    """0 for a verdict; then an answer that holds none, last a call that failed."""
    return ("ok", *reversed(STATES)).index(_state(judge, row))


def _share(
    request: JudgeRequest, targets: Sequence[Target], known: Mapping[str, VerdictRow]
) -> None:
    """Puts what is known into each log that has no row of it, or a worse one that is to be asked again."""
    judge = request.judge
    for target in targets:
        for key in dict.fromkeys(call.key for call in target.calls if call.key in known):
            own, best = target.log.verdict(key), known[key]
            again = own is not None and _state(judge, own) in request.retry
            if own is None or (again and _worth(judge, best) < _worth(judge, own)):
                # its usage is booked where it was asked; here it would settle what another call reserved
                usage = {"prompt_tokens": None, "completion_tokens": None}
                target.log.add(best.model_copy(update=usage))


def _questions(request: JudgeRequest, targets: Sequence[Target]) -> list[Question]:
    """What has no recorded answer, each question once, in a fixed order."""
    rows = _best(request.judge, targets)
    states = {key: _state(request.judge, row) for key, row in rows.items()}
    open_ = {key for key in _keys(targets) if states.get(key) in (None, *request.retry)}
    wanted: dict[str, Question] = {}
    for target in targets:
        for call in target.calls:
            if call.key in open_:
                logs = wanted.setdefault(call.key, Question(call, [])).logs
                logs += [target.log] if target.log not in logs else []
    return list(wanted.values())


def _answer(
    request: JudgeRequest, base_url: str, targets: Sequence[Target], progress: Progress
) -> Stop | None:
    """Fills the logs; returns why not all of it could be asked, or nothing."""
    judge = request.judge
    replayed = recorded(request.replay) if request.replay else ()
    _share(request, targets, _best(judge, targets, replayed))
    questions = _questions(request, targets)
    if not questions or request.replay is not None:
        return (
            Stop(f"{len(questions)} questions are not in the recorded ledger")
            if questions
            else None
        )
    from kdbench.harness.judge.client import Client, read_key

    secret = read_key(judge, base_url)
    budget = Budget(judge, request.max_cost, sum(target.log.spent for target in targets))
    total = len(_keys(targets))
    before = total - len(questions)
    states: Counter[str] = Counter()
    with (
        progress.stage(f"judge {judge.model}", total, unit="question", done=before) as stage,
        Client(judge, base_url, secret) as client,
    ):

        def answered(row: VerdictRow) -> None:
            states[row.state] += 1
            unfit = {state: n for state, n in states.items() if state != "ok"}
            stage.update(before + states.total(), cost=f"{budget.taken:.4f}", **unfit)

        return Asking(
            client, budget, answered, read=partial(read, judge), unread=partial(unreadable, judge)
        ).run(questions)


def _summarise(
    run: RunFolder,
    request: JudgeRequest,
    record: JudgeRecord,
    found: Sequence[tuple[Answered, JudgeScores]],
) -> None:
    """Puts this judge's numbers into a run's summary; those of the first N prompts apart."""
    prices = request.judge.prices
    label = f"{record.judge}:{request.limit}" if request.limit else record.judge
    with RunLock(run.path, wait=60):
        summary = run.summary.read()
        before = summary.judge.get(label, {}).get("evaluations", {})
        mine = {a.evaluation.key: scores for a, scores in found if a.run == run}
        folders = [evaluation.judge(record.judge) for evaluation in run.evaluations()]
        logs = [VerdictLog(folder) for folder in folders if folder.record.exists()]
        entry = JudgeSummary(
            mode=request.judge.mode,
            model=request.judge.model,
            base_url=record.base_url,
            against=record.against,
            evaluations=before | mine,
            calls=sum(map(len, logs)),
            prompt_tokens=sum(log.prompt_tokens for log in logs),
            completion_tokens=sum(log.completion_tokens for log in logs),
            cost=round(sum(log.spent for log in logs), 9) if prices else None,
            currency=prices.currency if prices else "",
        )
        judges = summary.judge | {label: entry.model_dump(mode="json")}
        run.summary.write(summary.model_copy(update={"judge": judges}))
