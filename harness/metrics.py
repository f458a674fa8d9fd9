"""The metrics: how each is called, its bounds, which way is better, and how a text metric is computed.

A text metric is one function of an answer and its references, registered here with a direction and an
aggregation. A package adds some by the entry point
``[project.entry-points."kdbench.metrics"] name = "module:METRIC"``, whose value is a `Metric`.
"""

import importlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Literal, NamedTuple

from kdbench.harness.errors import InputError, unknown
from kdbench.harness.files.records import MetricCard
from kdbench.harness.files.store import sha256_file

Kind = Literal["score", "judge", "probe"]
ENTRY_POINTS = "kdbench.metrics"

MOST_UNMEASURED = 0.1
"""Share of an evaluation's prompts above which a metric that cannot measure them has no value at all."""

TextMetric = Callable[[str, Sequence[str]], float]
"""(answer, references) -> value of one answer; raises `Unmeasured` where there is none."""


class Unmeasured(Exception):  # nobody's error: it becomes a state with this reason
    """A metric has no value for a prompt, whatever the answer; the message says why."""


class Metric(NamedTuple):
    """How a metric is shown. ``better``: 1 higher, -1 lower, 0 neither (then nothing is bold).

    ``kind``: a score has per-prompt values beside the run and is compared in pairs; judges and
    probes have an interval only. ``about`` says in a few words what is measured. ``score`` makes it a
    text metric: a function, or where ours is (``module:function``). ``aggregate`` takes the values of
    all prompts to one number, where that is no mean (then it is not compared in pairs).
    """

    label: str
    better: int
    low: float = float("-inf")
    high: float = float("inf")
    headline: bool = False
    digits: int = 1
    kind: Kind = "score"
    about: str = ""
    score: str | TextMetric | None = None
    aggregate: Callable[[Sequence[float]], float] | None = None


def _percent(label: str, better: int, about: str, score: str | None = None) -> Metric:
    return Metric(label, better, 0.0, 100.0, headline=bool(score), about=about, score=score)


def _judge(label: str, better: int, about: str, *, headline: bool = False) -> Metric:
    return Metric(label, better, 0.0, headline=headline, kind="judge", about=f"judge: {about}")


def _probe(
    label: str, better: int, digits: int, about: str, low: float = 0.0, high: float = float("inf")
) -> Metric:
    return Metric(label, better, low, high, digits=digits, kind="probe", about=about)


METRICS: dict[str, Metric] = {
    "rouge_l": _percent(
        "ROUGE-L", 1, "F-measure with stems, best over references", "kdbench.tasks.scoring:rouge_l"
    ),
    "exact_match": _percent(
        "EM", 1, "exact match with a reference, percent", "kdbench.tasks.scoring:exact_match"
    ),
    "chrf": _percent(
        "chrF", 1, "chrF2 of all answers together, by sacrebleu; no mean over prompts"
    ),
    "bleu": _percent("BLEU", 1, "BLEU of all answers together, by sacrebleu; no mean over prompts"),
    "chrf_prompt": _percent("chrF/prompt", 1, "chrF2 of each answer, mean; what pairs compare"),
    "bleu_prompt": _percent(
        "BLEU/prompt", 1, "smoothed BLEU of each answer, mean; what pairs compare"
    ),
    "acc": Metric("acc", 1, 0.0, 1.0, headline=True, digits=3, about="accuracy"),
    "acc_norm": Metric(
        "acc_norm", 1, 0.0, 1.0, headline=True, digits=3, about="accuracy, length-normalised"
    ),
    "brier": Metric("Brier", -1, 0.0, 2.0, digits=3, about="Brier score of the label words"),
    "ece": _probe("ECE", -1, 3, "calibration error of the label words", high=1.0),
    "response_tokens": Metric("length", 0, 0.0, about="tokens of an answer"),
    "finished": _percent("finished", 0, "answers that end by themselves, percent"),
    "cut": _percent("cut", 0, "answers cut at the length limit, percent"),
    "judge_feedback": _judge(
        "feedback", 1, "score relative to the reference's, percent", headline=True
    ),
    "judge_win_rate": _judge("win rate", 1, "comparisons won, percent", headline=True),
    "judge_score": _judge("score", 1, "mean score of the answers"),
    "judge_reference_score": _judge("reference score", 0, "mean score of the references"),
    "judge_tie_rate": _judge("ties", 0, "comparisons without a winner, percent"),
    "judge_flip_rate": _judge("flips", 0, "the two orders disagree, percent"),
    "judge_first_rate": _judge("first", 0, "the answer shown first is chosen, percent"),
    "exposure_excess": _probe(
        "ExAccErr",
        -1,
        1,
        "exposure bias: excess of the error on own contexts over that on the teacher's, percent",
        float("-inf"),
    ),
    "exposure_R": _probe("R(L)", -1, 2, "accumulated error on own contexts, nats"),
    "token_acc": _probe("token acc", 1, 3, "next-token accuracy on reference answers", high=1.0),
    "token_brier": _probe("token Brier", -1, 3, "Brier score on reference answers", high=2.0),
    "token_ece": _probe("token ECE", -1, 3, "calibration error on reference answers", high=1.0),
    "reference_loss": _probe("ref. loss", -1, 3, "nats a token of the reference answer"),
    "kl_true_student": _probe("KL(true‖q)", -1, 2, "whole answers, truth to student, nats"),
    "kl_student_true": _probe("KL(q‖true)", -1, 2, "whole answers, student to truth, nats"),
    "modes_covered": _probe("modes", 1, 1, "valid answers covered, percent", high=100.0),
    "invalid": _probe("invalid", -1, 1, "sampled answers that are wrong, percent", high=100.0),
    "self_bleu": _probe("self-BLEU", 0, 1, "likeness of answers to each other", high=100.0),
}
"""In the order of the columns of a table. Others come after these, by name."""


_LEARNT: dict[str, Metric] = {}
"""Metrics of others, as summaries describe them: what defines them may not be installed here."""
_DISPUTED: set[str] = set()
"""Those of them that summaries describe in different ways."""


def learn(described: Iterable[Mapping[str, MetricCard]]) -> None:
    """Makes metrics known that summaries bring with them; ours stay as they are.

    Where summaries contradict each other on a metric, none of them is believed: the metric has no better
    direction then (see `disputed`). It has the bounds that hold all of theirs.

    Args:
        described: by several summaries, that are all to be known; what was learnt of these metrics before
            is forgotten.
    """
    found: dict[str, list[MetricCard]] = {}
    for cards in described:
        for name, card in cards.items():
            if name not in METRICS:
                found.setdefault(name, []).append(card)
    for name, alike in found.items():
        agreed = len({(card.better, card.kind) for card in alike}) == 1
        (_DISPUTED.discard if agreed else _DISPUTED.add)(name)
        lows, highs = ([getattr(card, end) for card in alike] for end in ("low", "high"))
        first = alike[0].model_dump(exclude={"low", "high", "better"})
        _LEARNT[name] = Metric(
            **first,
            better=alike[0].better if agreed else 0,
            low=min(float("-inf") if low is None else low for low in lows),
            high=max(float("inf") if high is None else high for high in highs),
        )


def disputed(metric: str) -> bool:
    """Whether summaries contradict each other on which way a metric is better, or on its kind."""
    return metric in _DISPUTED


def card_of(metric: Metric) -> MetricCard:
    """What a summary keeps of a metric that is not ours."""
    shown = {name: getattr(metric, name) for name in MetricCard.model_fields}
    finite = {k: v for k, v in shown.items() if v not in (float("-inf"), float("inf"))}
    return MetricCard(**finite | ({"kind": "probe"} if metric.aggregate else {}))


def info(metric: str) -> Metric:
    """What is known about ``metric``; an unknown one has no better direction."""
    return METRICS.get(metric) or _LEARNT.get(metric) or Metric(metric, 0)


@cache
def others() -> dict[str, Metric]:
    """Text metrics that installed packages add. Our own names cannot be taken.

    Raises:
        InputError: an entry point that cannot be loaded or is no text metric.
    """
    found = {}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in METRICS:
            continue
        try:
            metric = point.load()
        except Exception as error:  # code of somebody else: anything can come out of it
            raise InputError(
                f"metric {point.name!r} cannot be loaded from {point.value} ({error}); repair or "
                "uninstall that package"
            ) from error
        if not isinstance(metric, Metric) or not callable(metric.score):
            raise InputError(
                f"metric {point.name!r} ({point.value}) is no kdbench.harness.metrics.Metric with a "
                "function `score`; repair or uninstall that package"
            )
        found[point.name] = metric
    return found


def text_metrics() -> dict[str, TextMetric]:
    """Every text metric's function, ours first."""
    known = {**METRICS, **others()}
    return {name: _function(metric.score) for name, metric in known.items() if metric.score}


def _function(score: str | TextMetric) -> TextMetric:
    if not isinstance(score, str):
        return score
    module, _, name = score.partition(":")
    found: TextMetric = getattr(importlib.import_module(module), name)
    return found


def versions_of_others() -> str:
    """What tells scores of one set of added metrics from those of another; empty without any."""
    said = []
    for name, metric in sorted(others().items()):
        assert callable(metric.score)
        file = getattr(sys.modules.get(metric.score.__module__), "__file__", None)
        source = sha256_file(file)[:8] if file else "unknown"
        said.append(f" +{name}@{source}")
    return "".join(said)


def named(wanted: Sequence[str] | None, there: Collection[str]) -> list[str] | None:
    """Metrics by name or by the label that tables show, whatever the case; None stays None.

    Args:
        wanted: as typed.
        there: metrics that the runs have.

    Raises:
        InputError: no such metric, or one that no run has.
    """
    if wanted is None:
        return None
    known = {**METRICS, **{name: info(name) for name in there}}
    by_label = {metric.label.casefold(): name for name, metric in reversed(known.items())}
    found = []
    for text in wanted:
        name = text if text in known else by_label.get(text.casefold(), text.casefold())
        if name not in known:
            raise unknown("metric", text, [info(each).label for each in there] or list(known))
        if name not in there:
            have = ", ".join(info(each).label for each in there) or "none"
            raise InputError(f"no run here has the metric {text}; they have: {have}")
        found.append(name)
    return list(dict.fromkeys(found))


def rank(metric: str) -> tuple[int, str]:
    """Sort key of a metric's column."""
    names = list(METRICS)
    return (names.index(metric) if metric in METRICS else len(names), metric)


def clamp(metric: str, value: float) -> float:
    """``value`` inside the metric's bounds (a t interval may leave them)."""
    known = info(metric)
    return min(max(value, known.low), known.high)
