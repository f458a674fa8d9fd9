"""How long runs will take, from runs that are there; where none are, a guess that says so."""

import contextlib
import statistics
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.config import RunConfig
from kdbench.harness.errors import InputError
from kdbench.harness.files.run_folder import runs_in
from kdbench.harness.study.definition import Cell

TOKENS_PER_SECOND = 2_000.0
"""Trained response tokens a second where nothing was measured: a small pair on one core."""
START_S = 20.0
"""Seconds of such a run that are not training: imports, loading, a few answers."""
TOKENS_PER_ROW = 20


class Estimate(NamedTuple):
    """Seconds of one run, and what they were read from."""

    seconds: float
    source: str


class Estimates:
    """Times of finished runs below a folder.

    Args:
        runs_dir: folder of run folders.
    """

    def __init__(self, runs_dir: Path) -> None:
        self._times: dict[tuple[str, str], list[float]] = defaultdict(list)
        """By suite and method; those of a suite's every method under no method's name."""
        for run in runs_in(runs_dir):
            with contextlib.suppress(InputError):
                summary = run.summary.read()
                card, cost = summary.run, sum(stage.wall_s for stage in summary.cost.values())
                if card.kind == "run" and summary.scores and cost:
                    self._times[card.suite, card.method].append(cost)
                    self._times[card.suite, ""].append(cost)

    def of(self, cell: Cell) -> Estimate:
        """The mean of finished runs of the method and suite; else of the suite; else a guess."""
        suite, method = cell.config.suite, cell.config.method.name
        for name, whose in ((method, "the method"), ("", f"other methods on {suite}")):
            if times := self._times.get((suite, name)):
                runs = f"{len(times)} finished run{'' if len(times) == 1 else 's'}"
                return Estimate(statistics.fmean(times), f"mean of {runs} of {whose}")
        tokens = _budget_tokens(cell.config)
        if tokens is None:
            return Estimate(0.0, "unknown: nothing of this suite has run, and epochs are no time")
        source = f"guess: a budget of {tokens:,.0f} tokens at {TOKENS_PER_SECOND:,.0f} a second"
        return Estimate(START_S + tokens / TOKENS_PER_SECOND, source)


def _budget_tokens(config: RunConfig) -> float | None:
    """The smaller one where steps and tokens are given: the first reached ends a training."""
    train = config.train
    budgets = [float(train.response_tokens)] if train.response_tokens is not None else []
    if train.steps is not None:
        budgets.append(float(train.steps * train.batch_size * TOKENS_PER_ROW))
    return min(budgets, default=None)
