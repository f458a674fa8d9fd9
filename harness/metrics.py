"""What a report knows about a metric: how it is called, its bounds, and which way is better."""

from typing import Literal, NamedTuple

Kind = Literal["score", "judge", "probe"]


class MetricInfo(NamedTuple):
    """How a metric is shown. ``better``: 1 higher, -1 lower, 0 neither (then nothing is bold).

    ``kind``: a score has per-prompt values beside the run and is compared in pairs; judges and
    probes have an interval only. ``about`` says in a few words what is measured.
    """

    label: str
    better: int
    low: float = float("-inf")
    high: float = float("inf")
    headline: bool = False
    digits: int = 1
    kind: Kind = "score"
    about: str = ""


def _percent(label: str, better: int, about: str, *, headline: bool = False) -> MetricInfo:
    return MetricInfo(label, better, 0.0, 100.0, headline=headline, about=about)


def _judge(label: str, better: int, about: str, *, headline: bool = False) -> MetricInfo:
    return MetricInfo(label, better, 0.0, headline=headline, kind="judge", about=f"judge: {about}")


def _probe(
    label: str, better: int, digits: int, about: str, low: float = 0.0, high: float = float("inf")
) -> MetricInfo:
    return MetricInfo(label, better, low, high, digits=digits, kind="probe", about=about)


METRICS: dict[str, MetricInfo] = {
    "rouge_l": _percent("ROUGE-L", 1, "F-measure with stems, best over references", headline=True),
    "exact_match": _percent("EM", 1, "exact match with a reference, percent", headline=True),
    "acc": MetricInfo("acc", 1, 0.0, 1.0, headline=True, digits=3, about="accuracy"),
    "acc_norm": MetricInfo(
        "acc_norm", 1, 0.0, 1.0, headline=True, digits=3, about="accuracy, length-normalised"
    ),
    "brier": MetricInfo("Brier", -1, 0.0, 2.0, digits=3, about="Brier score of the label words"),
    "ece": _probe("ECE", -1, 3, "calibration error of the label words", high=1.0),
    "response_tokens": MetricInfo("length", 0, 0.0, about="tokens of an answer"),
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


def info(metric: str) -> MetricInfo:
    """What is known about ``metric``; an unknown one has no better direction."""
    return METRICS.get(metric, MetricInfo(metric, 0))


def rank(metric: str) -> tuple[int, str]:
    """Sort key of a metric's column."""
    names = list(METRICS)
    return (names.index(metric) if metric in METRICS else len(names), metric)


def clamp(metric: str, value: float) -> float:
    """``value`` inside the metric's bounds (a t interval may leave them)."""
    known = info(metric)
    return min(max(value, known.low), known.high)
