"""What ``kdbench judge`` tells a person, or a program."""

import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.harness.files.records import Estimate, JudgeRecord, JudgeScores, Missing
from kdbench.harness.judge.asking import Stop
from kdbench.harness.judge.budget import likely_prompt_tokens, most_prompt_tokens
from kdbench.harness.judge.calls import Answered, Call
from kdbench.harness.judge.definition import JudgeDefinition


def print_plan(
    judge: JudgeDefinition,
    record: JudgeRecord,
    calls: Sequence[Call],
    known: int,
    *,
    json_output: bool,
) -> None:
    """Calls, tokens and cost of what would be asked; ``known`` answers are recorded already."""
    likely = sum(likely_prompt_tokens(call.messages) for call in calls)
    most = sum(most_prompt_tokens(call.messages) for call in calls)
    written = len(calls) * judge.max_tokens
    prices = judge.prices
    plan: dict[str, Any] = {
        "calls": len(calls),
        "prompt_tokens": likely,
        "completion_tokens_at_most": written,
        "cost_about": prices.of(likely, written // 4) if prices else None,
        "cost_at_most": prices.of(most, written) if prices else None,
        "currency": prices.currency if prices else "",
        "prices_of": str(prices.date) if prices else "",
        "judge": record.judge,
        "base_url": record.base_url,
        "recorded": known,
    }
    if json_output:
        print(json.dumps(plan))
        return
    print(f"judge: {record.judge} at {record.base_url}")
    print(f"calls: {len(calls):,} ({known:,} answers are recorded already)")
    print(f"tokens: about {likely:,} read, at most {written:,} written")
    if prices is None:
        print("cost: unknown; the judge has no prices")
    else:
        print(
            f"cost: about {plan['cost_about']:.2f} {prices.currency} if a quarter of the token "
            f"limit is written, at most {plan['cost_at_most']:.2f} (prices of {prices.date})"
        )


def print_results(
    judge: str,
    found: Sequence[tuple[Answered, JudgeScores]],
    stopped: Stop | None,
    runs: Sequence[Path],
    *,
    json_output: bool,
) -> None:
    """Values and their sanity floor by evaluation, and how to go on."""
    if json_output:
        rows = [
            {
                "run": str(answered.run.path),
                "evaluation": answered.evaluation.key,
                **scores.model_dump(mode="json"),
            }
            for answered, scores in found
        ]
        print(json.dumps({"judge": judge, "stopped": _said(stopped), "rows": rows}))
    else:
        for answered, scores in found:
            print(f"{answered.run.name}  {scores.task}[{scores.edition}]")
            for title, cells in (("", scores.metrics), ("sanity: ", scores.sanity)):
                _print_cells(title, cells)
            listed = ", ".join(f"{n} {state}" for state, n in scores.states.items())
            print(f"  answers of the judge: {listed}")
        print(f"judge: {judge}")
        print(
            "signature: 95% percentile bootstrap over prompts, decoding seeds averaged per prompt"
        )
    if stopped:
        print(f"warning: stopped: {_said(stopped)}", file=sys.stderr)
    failed = sum(scores.states.get("error", 0) for _, scores in found)
    if failed:
        print(f"warning: {failed} calls failed; ask them again by --retry error", file=sys.stderr)
    if not stopped and not json_output:
        print("next: kdbench leaderboard " + " ".join(shlex.quote(str(path)) for path in runs))


def _said(stopped: Stop | None) -> str:
    if stopped is None:
        return ""
    again = f"continue with: {shlex.join(['kdbench', *sys.argv[1:]])}"
    return f"{stopped.reason}; {stopped.remedy or again}"


def reasons(cells: Mapping[str, Estimate | Missing]) -> dict[str, list[str]]:
    """Why values are missing, and which."""
    found = defaultdict(list)
    for name, cell in cells.items():
        if isinstance(cell, Missing):
            found[cell.missing].append(name)
    return found


def _print_cells(title: str, cells: Mapping[str, Estimate | Missing]) -> None:
    """One line of values, and one for each reason why some are missing."""
    there = {name: cell for name, cell in cells.items() if isinstance(cell, Estimate)}
    if there:
        values = [f"{n}: {c.mean:.2f} [{c.low:.2f}, {c.high:.2f}]" for n, c in there.items()]
        prompts = sorted({cell.n_prompts for cell in there.values()})
        print(f"  {title}{'; '.join(values)} ({', '.join(map(str, prompts))} prompts)")
    for reason, names in reasons(cells).items():
        print(f"  {title}{', '.join(names)}: missing: {reason}")
