"""``kdbench score``: numbers of stored samples again, without a model."""

import json
import shlex
import sys
from pathlib import Path

from kdbench.harness.errors import Damaged, InputError
from kdbench.harness.evaluation.scoring import describe, score
from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.run_folder import Evaluation, RunFolder, find_runs
from kdbench.harness.files.store import to_stderr
from kdbench.harness.runner.summary import rescored


def score_command(
    paths: list[Path], task_files: str | None = None, *, json_output: bool = False
) -> int:
    """Scores stored samples again and renews the summaries; 1 if a run among several is damaged.

    Raises:
        InputError: no run with samples is there.
        Damaged: none of them can be scored.
    """
    runs = [run for run in find_runs(paths) if run.evaluations()]
    if not runs:
        raise InputError(
            f"no run folder with samples below {', '.join(map(str, paths))}; give a run folder, or "
            "make one with kdbench run"
        )
    done: list[str] = []
    damaged: list[Damaged] = []
    for run in runs:
        try:
            with RunLock(run.path):
                done += [str(evaluation.path) for evaluation in _score(run, task_files)]
        except Damaged as damage:
            damaged.append(damage)
    if len(damaged) == len(runs):
        raise damaged[0]
    for damage in damaged:
        print(f"kdbench: left out: {damage}", file=sys.stderr)
    if json_output:
        print(json.dumps({"scored": done, "left_out": [str(each) for each in damaged]}))
    else:
        print(f"scored {len(done)} evaluations of {len(runs) - len(damaged)} runs again")
        print("next: kdbench leaderboard " + " ".join(shlex.quote(str(p)) for p in paths))
    return 1 if damaged else 0


def _score(run: RunFolder, task_files: str | None) -> list[Evaluation]:
    """One run; a damaged one is left as it is."""
    answered = [each for each in run.evaluations() if each.generated.done()]
    for evaluation in answered:
        evaluation.record.read()
    for evaluation in answered:
        score(evaluation, task_files)
        describe(evaluation)
    rescored(run, to_stderr)
    return answered
