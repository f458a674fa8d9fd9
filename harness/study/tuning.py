"""Tuning by equal rules: what is tried for each method, how trials are judged, which one wins.

Every method gets the same number of trials of the same budget. The first trial is what the suite says;
the others are points of one fixed quasi-random sequence (Halton, scrambled by a fixed seed) in the space
that the method's card declares: the rate, as a factor of the suite's, and up to three fields of its own.
The same method, space and number give the same trials on every machine. Trials are judged on the
development set only. The best of a method and the suite's own settings then meet at the whole budget: what
a short training favours need not be what a long one wants.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdbench.harness.config import RunConfig, TrainConfig
from kdbench.harness.errors import DIVERGED, InputError
from kdbench.harness.registry import find_method
from kdbench.harness.resolve import BUDGET
from kdbench.harness.study.definition import Study, StudyRow
from kdbench.trainers.method import Dimension

RATE = Dimension(name="train.lr", low=0.25, high=4.0, log=True, relative=True)
"""Searched for every method."""
STEPS = ("warmup", "eval_every")
"""Steps that a trial has its share of, as of the budget."""
SEQUENCE_SEED = 0
FINALISTS = 2
"""The best trial and the suite's own settings."""


class Trial(NamedTuple):
    """One setting that is tried: of which method, its number from 1, and what it sets."""

    method: str
    number: int
    settings: tuple[str, ...]

    @property
    def label(self) -> str:
        """As tables and logs call it."""
        return f"{self.method} trial {self.number}"


class Tried(NamedTuple):
    """A trial and its score on the development set; None and the reason if it has none."""

    trial: Trial
    score: float | None
    reason: str = ""

    @property
    def counts(self) -> bool:
        """Whether it was judged: by its score, or because its training diverged."""
        return self.score is not None or self.reason.startswith(DIVERGED)


def space_of(method: str) -> tuple[Dimension, ...]:
    """What is searched for a method: the rate first, then its own fields."""
    return (RATE, *find_method(method).method.card.space)


def trials_of(method: str, config: RunConfig, count: int) -> list[Trial]:
    """The settings that are tried for a method.

    Args:
        method: its name.
        config: a run of it as the suite says.
        count: how many.
    """
    space = space_of(method)
    points = _points(len(space), count - 1)
    drawn = [tuple(_setting(d, u, config) for d, u in zip(space, p, strict=True)) for p in points]
    return [Trial(method, i, settings) for i, settings in enumerate([(), *drawn], start=1)]


def _points(dimensions: int, count: int) -> list[list[float]]:
    from scipy.stats import qmc

    if not count:
        return []
    sequence = qmc.Halton(dimensions, scramble=True, rng=SEQUENCE_SEED)
    points: list[list[float]] = sequence.random(count).tolist()
    return points


def _setting(dimension: Dimension, place: float, config: RunConfig) -> str:
    """The setting at ``place`` in [0, 1) of a dimension."""
    name = dimension.name
    if dimension.choices:
        value = dimension.choices[int(place * len(dimension.choices))]
        return f"{name}={str(value).lower() if isinstance(value, bool) else value}"
    low, high = dimension.low, dimension.high
    if dimension.relative:
        said = _said(name, config)
        low, high = low * said, high * said
    if dimension.log:
        number = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    else:
        number = low + place * (high - low)
    return f"{name}={number:.3g}"


def _said(name: str, config: RunConfig) -> float:
    section, _, field = name.partition(".")
    tree = config.train.model_dump() if section == "train" else config.method.options
    return float(tree[field])


def budget_settings(train: TrainConfig, share: float) -> tuple[str, ...]:
    """Settings that cut a training to a share of its budget, with warm-up and looks at the same places."""
    fields = {name: getattr(train, name) for name in (*BUDGET, *STEPS)}
    cut = {name: share * v for name, v in fields.items() if v and not isinstance(v, str)}
    if share == 1:
        cut = {name: value for name, value in cut.items() if name in BUDGET}
    return tuple(
        f"train.{name}={value:g}" if name == "epochs" else f"train.{name}={max(1, round(value))}"
        for name, value in cut.items()
    )


def trial_study(
    suite: str, trials: Sequence[Trial], budgets: dict[str, tuple[str, ...]], seed: int
) -> Study:
    """The trials as a study whose students are trained and asked nothing but the development set.

    Args:
        suite: name or file.
        trials: of all methods.
        budgets: of a trial, by method.
        seed: training seed of all trials.
    """
    rows = [
        StudyRow(label=t.label, method=t.method, set=(*budgets[t.method], *t.settings))
        for t in trials
    ]
    return Study(title="Trials", suite=suite, seeds=(seed,), rows=tuple(rows), tasks=())


def finalists(tried: Sequence[Tried], share: float, better: int) -> list[Trial]:
    """Which of a method's trials meet at the whole budget, the suite's own first.

    Args:
        tried: its trials, the suite's own first.
        share: of the budget that they had; nothing is trained again if it was all.
        better: direction of scores.
    """
    best = winner(tried, better)
    if best is None:
        return []
    own = tried[0]
    alone = share == 1 or own is best or own.score is None
    return [best.trial] if alone else [own.trial, best.trial]


def final_study(suite: str, trials: Sequence[Trial], seed: int) -> Study:
    """Those at the whole budget, under the seed of the trials, asked nothing but the development set."""
    rows = [
        StudyRow(label=f"{t.label} at the whole budget", method=t.method, set=t.settings)
        for t in trials
    ]
    return Study(title="Finals", suite=suite, seeds=(seed,), rows=tuple(rows), tasks=())


_JUDGES = {"max:dev_rouge_l": ("dev_rouge_l", 1), "min:dev_loss": ("dev_loss", -1)}


def criterion(configs: Mapping[str, RunConfig]) -> tuple[str, int]:
    """The development metric that the trials of all methods are judged by, and its better direction.

    Args:
        configs: a run of each method as the suite says.

    Raises:
        InputError: the training of a method measures none that chooses a step, or methods' differ.
    """
    remedy = "add --set train.select=max:dev_rouge_l"
    chosen = {name: config.train.select for name, config in configs.items()}
    for name, select in chosen.items():
        if select not in _JUDGES:
            raise InputError(
                f"the suite selects the step {select!r} for {name}, so its trials have no score on the "
                f"development set; {remedy}"
            )
    by_select = {select: name for name, select in chosen.items()}
    if len(by_select) > 1:
        said = " and ".join(f"{select} for {name}" for select, name in by_select.items())
        raise InputError(
            f"trials are judged by one number, and the suite selects by {said}; {remedy}"
        )
    return _JUDGES[next(iter(by_select))]


def winner(tried: Sequence[Tried], better: int) -> Tried | None:
    """The best trial, of equal ones the first; None if none has a score."""
    scored = [t for t in tried if t.score is not None]
    return max(scored, key=lambda t: (better * (t.score or 0.0), -t.trial.number), default=None)


def expected_best(scores: Sequence[float], better: int) -> list[float]:
    """Expected best score of n trials drawn with replacement from those made, n = 1 … all.

    Source: Dodge et al. 2019, arXiv:1909.03004, section 3.1.
    """
    ranked, count = sorted(scores, key=lambda s: better * s), len(scores)
    return [
        sum(
            score * ((i / count) ** n - ((i - 1) / count) ** n)
            for i, score in enumerate(ranked, start=1)
        )
        for n in range(1, count + 1)
    ]


def search_of(tried: Sequence[Tried], finals: Sequence[Tried], share: float) -> dict[str, Any]:
    """What the configuration of a method's winner says of its search: what was judged, not what was asked.

    Args:
        tried: the method's trials, the suite's own first.
        finals: those that met at the whole budget.
        share: of the budget that a trial had.
    """
    kept_own = not finals and tried[0].score is not None  # the best trial was the suite's own
    met = kept_own or sum(each.counts for each in finals) == FINALISTS
    return how_tuned(sum(each.counts for each in tried), share, met=met)


def how_tuned(trials: int, share: float, *, met: bool = True) -> dict[str, Any]:
    """What the configuration of a winner says of its search (`TuningConfig`).

    Args:
        trials: how many were judged.
        share: of the budget that each had.
        met: whether what is kept was compared with the suite's settings at the whole budget.
    """
    note = f"best of {trials} trials of {share:.0%} of the budget on the development set"
    said: dict[str, Any] = {"trials": trials, "by": "search", "share": share}
    if share == 1 or not met:
        return said | {"note": note}
    again = "and, at the whole budget, no worse than the suite's settings"
    return said | {"note": f"{note} {again}", "finalists": FINALISTS}


def winners_study(
    suite: str,
    winners: Sequence[Trial],
    tuned: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
) -> Study:
    """Each method's best setting at the whole budget under every training seed.

    Args:
        suite: name or file.
        winners: one a method.
        tuned: of `how_tuned`, by method.
        seeds: training seeds.
    """
    rows = [
        StudyRow(label=t.method, method=t.method, set=(*t.settings, *_said_of(tuned[t.method])))
        for t in winners
    ]
    counts = sorted({tuned[t.method]["trials"] for t in winners})
    number = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    title = f"Tuned with {number} trials a method"
    return Study(title=title, suite=suite, seeds=tuple(seeds), rows=tuple(rows))


def _said_of(search: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"tuning.{name}={value}" for name, value in search.items())
