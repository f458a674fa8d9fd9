"""Values of a summary beyond the scores of single prompts: probes and judges, as metrics.

Their intervals come from the summary as they are; nothing here is resampled, and what was measured
without an interval is shown without one.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from kdbench.harness.files.records import Estimate, Missing, Summary


class Point(NamedTuple):
    """A value that was measured without an interval."""

    mean: float
    n_prompts: int


Value = Estimate | Point | Missing
Values = Mapping[str, Value]
Report = Mapping[str, Any]

JUDGE_PREFIX = "judge_"


def probe_values(report: Report) -> dict[str, Value]:
    """Metrics of one entry of ``Summary.probes``; a probe that was not run has none.

    Args:
        report: probe name -> what it measured, as the runner stores it.
    """
    found: dict[str, Value] = {}
    for probe, read in _READERS.items():
        if isinstance(report.get(probe), Mapping):
            found |= read(report[probe])
    return found


def judged_values(summary: Summary, key: str) -> Iterator[tuple[str, dict[str, Value]]]:
    """Judge id and metrics of every judge that has seen the answers of evaluation ``key``."""
    for judge in sorted(summary.judge):
        entry = summary.judge[judge]
        scores = entry.get("evaluations", {}).get(key) if isinstance(entry, Mapping) else None
        if scores:
            metrics = scores.get("metrics", {})
            yield judge, {JUDGE_PREFIX + name: _value(metrics[name]) for name in metrics}


def _value(stored: object, prompts: int = 0) -> Value:
    """An estimate, a missing value or a bare number, as stored."""
    if isinstance(stored, int | float):
        return Point(float(stored), prompts)
    try:
        if isinstance(stored, Mapping) and "missing" in stored:
            return Missing.model_validate(stored)
        # a probe is no sampled answer: it lists a seed only because every estimate does
        return Estimate.model_validate(stored)
    except ValidationError:
        return Missing(missing="the summary holds no number here; run: kdbench score")


def _of_probe(stored: object, prompts: int = 0) -> Value:
    """The same without the seed that deterministic measurements list."""
    value = _value(stored, prompts)
    if isinstance(value, Estimate):
        return value.model_copy(update={"seeds": [], "per_seed": []})
    return value


def _exposure(report: Report) -> dict[str, Value]:
    prompts, last = int(report.get("prompts", 0)), report.get("at_length", {})
    found: dict[str, Value] = {}
    for name, metric in (("ex_acc_err", "exposure_excess"), ("R", "exposure_R")):
        bounds = last.get(name, {})
        value, low, high = (bounds.get(part) for part in ("value", "low", "high"))
        if value is None:
            reason = report.get("undefined") or "not defined at the full length"
            found[metric] = Missing(missing=str(reason))
        elif low is None or high is None:
            found[metric] = Point(float(value), prompts)
        else:
            found[metric] = Estimate(mean=value, low=low, high=high, n_prompts=prompts)
    return found


def _calibration(report: Report) -> dict[str, Value]:
    """Of tokens of reference answers; a label task's own are among its scores."""
    if not isinstance(report.get("brier"), Mapping):
        return {}
    ece = _of_probe(report.get("ece"))
    prompts = ece.n_prompts if isinstance(ece, Estimate) else 0
    return {
        "token_acc": _of_probe(report.get("accuracy"), prompts),
        "token_brier": _of_probe(report["brier"]),
        "token_ece": ece,
    }


def _named(names: Mapping[str, str]) -> Callable[[Report], dict[str, Value]]:
    return lambda report: {
        metric: _of_probe(report[name]) for name, metric in names.items() if name in report
    }


def _self_bleu(report: Report) -> dict[str, Value]:
    return {"self_bleu": _value(report if "missing" in report else report.get("mean"))}


_READERS: dict[str, Callable[[Report], dict[str, Value]]] = {
    "exposure": _exposure,
    "calibration": _calibration,
    "loss": _named({"loss": "reference_loss"}),
    "truth": _named(
        {name: name for name in ("kl_true_student", "kl_student_true", "modes_covered", "invalid")}
    ),
    "self_bleu": _self_bleu,
}
