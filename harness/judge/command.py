"""``kdbench judge``: plan, ask, record, summarise."""

import contextlib
import json
import os
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.config import slug
from kdbench.harness.errors import InputError
from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.records import (
    Estimate,
    JudgeRecord,
    JudgeScores,
    JudgeSummary,
    Missing,
    Summary,
    VerdictRow,
)
from kdbench.harness.files.store import read_record, write_json
from kdbench.harness.judge.asking import Asking, Question
from kdbench.harness.judge.calls import (
    Call,
    Evaluation,
    evaluation_calls,
    likely_prompt_tokens,
    most_prompt_tokens,
    read_evaluation,
)
from kdbench.harness.judge.definition import OPENAI_URL, JudgeDefinition, checked_url, judge_id
from kdbench.harness.judge.ledger import Budget, Ledger, recorded
from kdbench.harness.judge.parsing import read
from kdbench.harness.judge.results import Intervals, judge_scores
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
        replay: ledger file or folder to answer from instead of the network.
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
    """One evaluation, its questions and its ledger."""

    evaluation: Evaluation
    calls: list[Call]
    ledger: Ledger


def judge_command(request: JudgeRequest, intervals: Intervals) -> int:
    """Judges stored answers; returns 0, or 1 if a value is missing or not all could be asked."""
    judge = request.judge
    _check(request)
    base_url = checked_url(judge.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
    other_run = request.against.resolve() if request.against else None
    name = judge_id(judge, base_url, slug(other_run.name) if other_run else None)
    targets = _targets(request, base_url, name)
    questions = _questions(request, targets)
    if request.dry_run:
        _print_plan(request, name, base_url, targets, questions)
        return 0
    progress = Progress(quiet=request.quiet or request.json_output)
    record = JudgeRecord(
        judge=name,
        definition=judge.model_dump(mode="json"),
        base_url=base_url,
        against=other_run.name if other_run else None,
    )
    with contextlib.ExitStack() as stack:
        for target in targets:
            stack.enter_context(RunLock(target.ledger.folder))
        # read again under the locks: another process may have added to them meanwhile
        targets = [t._replace(ledger=Ledger(t.ledger.folder)) for t in targets]
        for target in targets:
            write_json(target.ledger.folder / "judge.json", record)
        stopped = _answer(request, base_url, targets, progress)
        found = [judge_scores(judge, t.evaluation, t.calls, t.ledger, intervals) for t in targets]
        for run in dict.fromkeys(t.evaluation.run for t in targets):
            _summarise(run, request, record, targets, found)
    _print_results(request, name, targets, found, stopped)
    missing = any(isinstance(cell, Missing) for scores in found for cell in scores.metrics.values())
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
    bad = request.retry - {*STATES}
    if bad:
        raise InputError(
            f"--retry takes states among {', '.join(STATES)}, not {', '.join(sorted(bad))}"
        )
    if request.replay is not None and not request.replay.exists():
        raise InputError(f"no recorded ledger {request.replay}; give a verdicts.jsonl or a folder")


def _targets(request: JudgeRequest, base_url: str, name: str) -> list[Target]:
    """Every finished evaluation of the runs, with its questions."""
    judge, targets = request.judge, []
    for run in run_folders(request.runs):
        for folder in sorted((run / "eval").glob("*@*")):
            if request.tasks is not None and folder.name.partition("@")[0] not in request.tasks:
                continue
            evaluation = read_evaluation(run, folder, limit=request.limit, most_seeds=judge.seeds)
            if evaluation is None:
                continue
            other = None
            if request.against is not None:
                if request.against.resolve() == run.resolve():
                    continue
                place = request.against / "eval" / folder.name
                other = read_evaluation(request.against, place, limit=None, most_seeds=judge.seeds)
                if other is None:
                    raise InputError(
                        f"{request.against} has not finished {folder.name}; run: "
                        f"kdbench eval {shlex.quote(str(request.against))}"
                    )
            calls = evaluation_calls(judge, base_url, evaluation, other)
            targets.append(Target(evaluation, calls, Ledger(folder / "judge" / name)))
    if not targets:
        tasks = f" of {', '.join(request.tasks)}" if request.tasks else ""
        raise InputError(
            f"no finished answers{tasks} below {', '.join(map(str, request.runs))}; make some with "
            "kdbench run or kdbench eval"
        )
    return targets


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Run folders among paths that are one or hold some, each once."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise InputError(f"no folder {path}; give a run folder or a folder of runs")
        candidates = [path] if (path / "eval").is_dir() else sorted(path.iterdir())
        found += [p for p in candidates if (p / "summary.json").is_file() and (p / "eval").is_dir()]
    return list({p.resolve(): p for p in found}.values())


def _questions(request: JudgeRequest, targets: Sequence[Target]) -> list[Question]:
    """What has no recorded answer, each question once, in a fixed order.

    Copies to a ledger what another of these ledgers knows only when asked under its lock; see
    `_answer`.
    """
    known = _known(targets)
    wanted: dict[str, Question] = {}
    for target in targets:
        for call in target.calls:
            row = known.get(call.key)
            if (
                row is not None
                and read(request.judge, row.status, row.body).state not in request.retry
            ):
                continue
            question = wanted.setdefault(call.key, Question(call, []))
            if target.ledger not in question.ledgers:
                question.ledgers.append(target.ledger)
    return list(wanted.values())


def _known(targets: Sequence[Target]) -> dict[str, VerdictRow]:
    rows = (t.ledger.verdict(call.key) for t in targets for call in t.calls)
    return {row.key: row for row in rows if row is not None}


def _answer(
    request: JudgeRequest, base_url: str, targets: Sequence[Target], progress: Progress
) -> str:
    """Fills the ledgers; returns why not all of it could be asked, or nothing."""
    judge = request.judge
    known = _known(targets) | (recorded(request.replay) if request.replay else {})
    for target in targets:
        for key in dict.fromkeys(call.key for call in target.calls):
            if key in known and target.ledger.verdict(key) is None:
                target.ledger.add(known[key])
    questions = _questions(request, targets)
    if not questions or request.replay is not None:
        return f"{len(questions)} questions are not in the recorded ledger" if questions else ""
    from kdbench.harness.judge.client import Client, read_key

    secret = read_key(judge.key_env)
    if secret is None and base_url == OPENAI_URL:
        raise InputError(
            "the environment variable of the judge's key is not set; set OPENAI_API_KEY, or name "
            "another by --judge-key-env, or give an endpoint that needs none by --judge-base-url"
        )
    budget = Budget(judge, request.max_cost, sum(t.ledger.spent for t in targets))
    total = len({call.key for t in targets for call in t.calls})
    states: Counter[str] = Counter()
    with (
        progress.stage(
            f"judge {judge.model}", total, unit="question", done=total - len(questions)
        ) as stage,
        Client(judge, base_url, secret) as client,
    ):

        def answered(row: VerdictRow) -> None:
            states[row.state] += 1
            done = total - len(questions) + states.total()
            stage.update(
                done, cost=f"{budget.taken:.4f}", **{s: n for s, n in states.items() if s != "ok"}
            )

        return Asking(judge, client, budget, answered).run(questions)


def _summarise(
    run: Path,
    request: JudgeRequest,
    record: JudgeRecord,
    targets: Sequence[Target],
    found: Sequence[JudgeScores],
) -> None:
    """Puts this judge's numbers into a run's summary; those of the first N prompts apart."""
    judge = request.judge
    label = f"{record.judge}:{request.limit}" if request.limit else record.judge
    with RunLock(run, wait=60):
        path = run / "summary.json"
        summary = read_record(path, Summary)
        mine = [(t, s) for t, s in zip(targets, found, strict=True) if t.evaluation.run == run]
        before = summary.judge.get(label, {}).get("evaluations", {})
        ledgers = [Ledger(p.parent) for p in run.glob(f"eval/*/judge/{record.judge}/judge.json")]
        entry = JudgeSummary(
            mode=judge.mode,
            model=judge.model,
            base_url=record.base_url,
            against=record.against,
            evaluations=before | {t.evaluation.key: s for t, s in mine},
            calls=sum(len(ledger) for ledger in ledgers),
            prompt_tokens=sum(ledger.prompt_tokens for ledger in ledgers),
            completion_tokens=sum(ledger.completion_tokens for ledger in ledgers),
            cost=round(sum(ledger.spent for ledger in ledgers), 9) if judge.prices else None,
            currency=judge.prices.currency if judge.prices else "",
        )
        entries = summary.judge | {label: entry.model_dump(mode="json")}
        write_json(path, summary.model_copy(update={"judge": entries}))


# -- what a person reads --------------------------------------------------------------------------


def plan_of(judge: JudgeDefinition, questions: Sequence[Question]) -> dict[str, Any]:
    """Calls, tokens and cost of what would be asked."""
    likely = sum(likely_prompt_tokens(q.call.messages) for q in questions)
    most = sum(most_prompt_tokens(q.call.messages) for q in questions)
    written = len(questions) * judge.max_tokens
    prices = judge.prices
    return {
        "calls": len(questions),
        "prompt_tokens": likely,
        "completion_tokens_at_most": written,
        "cost_about": prices.of(likely, written // 4) if prices else None,
        "cost_at_most": prices.of(most, written) if prices else None,
        "currency": prices.currency if prices else "",
        "prices_of": str(prices.date) if prices else "",
    }


def _print_plan(
    request: JudgeRequest,
    name: str,
    base_url: str,
    targets: Sequence[Target],
    questions: Sequence[Question],
) -> None:
    plan = plan_of(request.judge, questions)
    known = len({call.key for t in targets for call in t.calls}) - len(questions)
    plan |= {"judge": name, "base_url": base_url, "recorded": known}
    if request.json_output:
        print(json.dumps(plan))
        return
    print(f"judge: {name} at {base_url}")
    print(f"calls: {plan['calls']:,} ({known:,} answers are recorded already)")
    print(
        f"tokens: about {plan['prompt_tokens']:,} read, at most "
        f"{plan['completion_tokens_at_most']:,} written"
    )
    if plan["cost_at_most"] is None:
        print("cost: unknown; the judge has no prices")
    else:
        print(
            f"cost: about {plan['cost_about']:.2f} {plan['currency']} if a quarter of the token "
            f"limit is written, at most {plan['cost_at_most']:.2f} (prices of {plan['prices_of']})"
        )


def _print_results(
    request: JudgeRequest,
    name: str,
    targets: Sequence[Target],
    found: Sequence[JudgeScores],
    stopped: str,
) -> None:
    if request.json_output:
        rows = [
            {
                "run": str(t.evaluation.run),
                "evaluation": t.evaluation.key,
                **s.model_dump(mode="json"),
            }
            for t, s in zip(targets, found, strict=True)
        ]
        print(json.dumps({"judge": name, "stopped": stopped, "rows": rows}))
    else:
        for target, scores in zip(targets, found, strict=True):
            print(f"{target.evaluation.run.name}  {scores.task}[{scores.edition}]")
            for title, cells in (("", scores.metrics), ("sanity: ", scores.sanity)):
                _print_cells(title, cells)
            listed = ", ".join(f"{n} {state}" for state, n in scores.states.items())
            print(f"  answers of the judge: {listed}")
        print(f"judge: {name}")
        print(
            "signature: 95% percentile bootstrap over prompts, decoding seeds averaged per prompt"
        )
    if stopped:
        again = shlex.join(["kdbench", *sys.argv[1:]])
        print(f"warning: stopped: {stopped}; continue with: {again}", file=sys.stderr)
    failed = sum(scores.states.get("error", 0) for scores in found)
    if failed:
        print(f"warning: {failed} calls failed; ask them again by --retry error", file=sys.stderr)
    if not stopped and not request.json_output:
        print("next: kdbench leaderboard " + " ".join(shlex.quote(str(p)) for p in request.runs))


def _print_cells(title: str, cells: Mapping[str, Estimate | Missing]) -> None:
    """One line of values, and one for each reason why some are missing."""
    there, missing = [], defaultdict(list)
    for name, cell in cells.items():
        if isinstance(cell, Missing):
            missing[cell.missing].append(name)
        else:
            there.append(f"{name}: {cell.mean:.2f} [{cell.low:.2f}, {cell.high:.2f}]")
    if there:
        prompts = {cell.n_prompts for cell in cells.values() if isinstance(cell, Estimate)}
        print(f"  {title}{'; '.join(there)} ({', '.join(map(str, sorted(prompts)))} prompts)")
    for reason, names in missing.items():
        print(f"  {title}{', '.join(names)}: missing: {reason}")
