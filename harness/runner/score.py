"""``kdbench score``: numbers of stored samples again, without a model."""

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import cast

from kdbench.harness.errors import Damaged, InputError, unknown
from kdbench.harness.evaluation.many import no_cycles
from kdbench.harness.evaluation.scoring import score
from kdbench.harness.evaluation.texts import describe
from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.run_folder import Evaluation, RunFolder, find_runs
from kdbench.harness.files.store import to_stderr
from kdbench.harness.progress import Progress
from kdbench.harness.runner.summary import rescored
from kdbench.tasks.words import TOKENIZERS, Tokenizer


def score_command(
    paths: list[Path],
    task_files: str | None = None,
    tokenizer: str | None = None,
    *,
    json_output: bool = False,
    quiet: bool = False,
) -> int:
    """Scores stored samples again and renews the summaries; 1 if a run among several is damaged.

    ``tokenizer`` is ROUGE-L's; None: what each evaluation was scored with.

    Raises:
        InputError: no run with samples is there, or no such tokenizer.
        Damaged: none of them can be scored.
    """
    if tokenizer is not None and tokenizer not in TOKENIZERS:
        raise unknown("tokenizer of ROUGE-L", tokenizer, TOKENIZERS)
    progress = Progress(quiet=quiet or json_output)
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
                scored = _score(run, task_files, tokenizer, progress)
                done += [str(evaluation.path) for evaluation in scored]
        except Damaged as damage:
            damaged.append(damage)
    if len(damaged) == len(runs):
        raise damaged[0]
    for each in damaged:
        print(f"kdbench: left out: {each}", file=sys.stderr)
    if json_output:
        print(json.dumps({"scored": done, "left_out": [str(each) for each in damaged]}))
    else:
        print(f"scored {len(done)} evaluations of {len(runs) - len(damaged)} runs again")
        print("next: kdbench leaderboard " + " ".join(shlex.quote(str(p)) for p in paths))
    return 1 if damaged else 0


def _score(
    run: RunFolder, task_files: str | None, tokenizer: str | None, progress: Progress
) -> list[Evaluation]:
    """One run; a damaged one is left as it is."""
    answered = [each for each in run.evaluations() if each.generated.done()]
    for evaluation in answered:
        evaluation.record.read()
    for evaluation in answered:
        by = cast(Tokenizer, tokenizer or _tokenizer(run, evaluation))
        with no_cycles():
            told = score(evaluation, task_files, by, progress)
            if evaluation.record.read().source != "outside":  # of which no tokens are known
                describe(evaluation, progress, told)
    rescored(run, to_stderr)
    return answered


def _tokenizer(run: RunFolder, evaluation: Evaluation) -> str:
    """Of the scores that are there; else of the run's configuration; else the papers'."""
    with contextlib.suppress(Damaged):  # it is written again
        if known := evaluation.scored.info().get("rouge_tokenizer"):
            return str(known)
    with contextlib.suppress(Damaged):
        if config := run.config.find():
            return str(config.tree().get("tasks", {}).get("rouge_tokenizer", "rouge"))
    return "rouge"
