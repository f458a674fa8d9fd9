"""How long a run takes: by the method's own past runs, else by what a step of it does, else a guess."""

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.config import RunConfig
from kdbench.harness.errors import InputError
from kdbench.harness.files.run_folder import runs_in
from kdbench.harness.own_methods import METHODS
from kdbench.harness.plan.work import Work, work_of
from kdbench.harness.registry import find_method
from kdbench.harness.resolve import BUDGET
from kdbench.harness.study.definition import Cell

TOKENS_PER_SECOND = 8_000.0
"""Trained response tokens a second of SFT where nothing was measured: a small pair on one core."""
START_S = 20.0
"""Seconds of such a run that are not training: imports, loading, a few answers."""
TOKENS_PER_ROW = 20
# what a training does beside SFT's step, in such steps: rounded from the costs in docs/method-zoo.md
TEACHER, SAMPLING, TEXT = 1.2, 1.2, 1.5
BACKWARD = 3
"""A forward pass alone is a third of a training step."""


class Estimate(NamedTuple):
    """Seconds of one run, and what they were read from."""

    seconds: float | None
    """None: not known."""
    source: str


class _Past(NamedTuple):
    """A finished training: its method, seconds, and budget; and seconds of all that came after."""

    method: str
    pair: Mapping[str, Any]
    train_s: float
    budget: Mapping[str, Any]
    asked_s: float | None
    """None: nothing was asked of the student."""


class Estimates:
    """Times of finished runs below a folder.

    Args:
        runs_dir: folder of run folders.
    """

    def __init__(self, runs_dir: Path) -> None:
        self._past: dict[str, list[_Past]] = {}
        """By suite."""
        for run in runs_in(runs_dir):
            with contextlib.suppress(InputError):
                summary = run.summary.read()
                spent = {name: cost.wall_s for name, cost in summary.cost.items()}
                train_s = spent.pop("train", 0.0)
                stored = run.config.find() if summary.run.kind == "run" and train_s else None
                if stored is not None:
                    asked_s = sum(spent.values()) if summary.scores else None
                    budget = stored.tree().get("train") or {}
                    pair = stored.tree().get("pair") or {}
                    past = _Past(summary.run.method, pair, train_s, budget, asked_s)
                    self._past.setdefault(summary.run.suite, []).append(past)

    def of(self, cell: Cell, trained: bool = False) -> Estimate:
        """By past runs of the method on the suite; else of others, by what a step does; else a guess.

        Either way for the cell's own models and budget. Nothing is averaged over methods as if they cost the
        same. Of a run that is ``trained`` only the asking is left.
        """
        config = cell.config
        models = (config.pair.teacher, config.pair.student)
        past = [
            each
            for each in self._past.get(config.suite, [])
            if (each.pair.get("teacher"), each.pair.get("student")) == models
        ]
        own = [each for each in past if each.method == config.method.name]
        asked = (_asked(own) or _asked(past)) if config.tasks.names else 0.0
        if trained and config.tasks.names and not asked:
            return Estimate(
                None, "unknown: it is trained, and nothing of this suite and pair was asked"
            )
        if trained:
            return Estimate(asked, "at most what asking a student took, which is all that is left")
        if taken := [each.train_s * share for each in own if (share := _share(config, each))]:
            source = f"mean of {_runs(taken)} of the method"
            return Estimate(statistics.fmean(taken) + asked, f"{source}{_budgets(config, own)}")
        weight = _weight(config.method.name)
        steps = [
            each.train_s * share / other
            for each in past
            if (share := _share(config, each)) and (other := _weight(each.method))
        ]
        if steps and weight:
            source = f"{_runs(steps)} of other methods, each weighed by what a step of it does"
            return Estimate(weight * statistics.median(steps) + asked, source)
        return _guess(config, weight or 1.0)


def relative_cost(work: Work) -> float:
    """Roughly how long a trained token takes, SFT's being 1, by what a step of a method does."""
    sampling = SAMPLING * work.sampled * (2 if work.mixed else 1)
    scoring = (work.scored + TEACHER * work.scored_teacher) / BACKWARD
    step = work.trained * (1 + TEACHER * work.teacher) + sampling + scoring + TEXT * work.text
    return step / work.trained


def _weight(method: str) -> float | None:
    """`relative_cost` of a method; None of one that is not here any more."""
    if method in METHODS:
        return relative_cost(work_of(method, {}))  # without torch, which a card needs
    with contextlib.suppress(InputError):
        return relative_cost(work_of(method, {}, find_method(method).method.card))
    return None


def _share(config: RunConfig, past: _Past) -> float | None:
    """The cell's budget over a past run's; None where they are stated in other units."""
    asked = config.train.model_dump()
    both = [name for name in BUDGET if asked.get(name) is not None and past.budget.get(name)]
    return min((float(asked[name]) / float(past.budget[name]) for name in both), default=None)


def _budgets(config: RunConfig, own: Sequence[_Past]) -> str:
    shares = {share for each in own if (share := _share(config, each))}
    return "" if shares <= {1.0} else ", for this budget"


def _asked(past: Sequence[_Past]) -> float:
    """Seconds for asking a student, which differ little between methods."""
    return statistics.fmean([each.asked_s for each in past if each.asked_s is not None] or [0.0])


def _runs(times: Sequence[float]) -> str:
    return f"{len(times)} finished run{'' if len(times) == 1 else 's'}"


def _guess(config: RunConfig, weight: float) -> Estimate:
    tokens = _budget_tokens(config)
    if tokens is None:
        return Estimate(
            None, "unknown: nothing of this suite and pair has run, and epochs are no time"
        )
    source = (
        f"guess: a budget of {tokens:,.0f} tokens at {TOKENS_PER_SECOND / weight:,.0f} a second, by "
        "what a step of the method does"
    )
    return Estimate(START_S + weight * tokens / TOKENS_PER_SECOND, source)


def _budget_tokens(config: RunConfig) -> float | None:
    """The smaller one where steps and tokens are given: the first reached ends a training."""
    train = config.train
    budgets = [float(train.response_tokens)] if train.response_tokens is not None else []
    if train.steps is not None:
        budgets.append(float(train.steps * train.batch_size * TOKENS_PER_ROW))
    return min(budgets, default=None)
