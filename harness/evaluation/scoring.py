"""From stored samples to per-prompt scores, and from those to what a summary says. No model."""

import contextlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from kdbench.harness import metrics, stats
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import (
    Estimate,
    EvaluationRecord,
    EvaluationScores,
    Missing,
    SampleRow,
    ScoreRow,
)
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.files.store import Say, content_hash
from kdbench.harness.foreign import foreign
from kdbench.harness.identity import column_id
from kdbench.tasks.scoring import SCORER, score_rows
from kdbench.tasks.text_stats import BUCKETS, by_length, cut_share, diversity, mean_length

GPT2 = "openai-community/gpt2"


def scored_as(record: EvaluationRecord) -> str:
    """What would score samples of this evaluation now; stored scores of another are made again."""
    if record.source == "lm-eval":
        from kdbench.harness.lm.tasks import SCORED_BY

        return SCORED_BY
    return SCORER + metrics.versions_of_others()


def score(evaluation: Evaluation, task_files: str | None = None) -> None:
    """Per-prompt scores of stored samples: text in, numbers out.

    Args:
        evaluation: answered, under every seed.
        task_files: the folder of lm-eval task files that the command line names. They run code, so
            that which the evaluation's record names is never read.
    """
    record = evaluation.record.read()
    rows = [row for seed in record.seeds for row in evaluation.samples(seed)]
    if record.source == "lm-eval":
        from kdbench.harness.evaluation.stock import score_samples

        scored, info = score_samples(record, evaluation, rows, task_files)
    else:
        scored, info = score_texts(rows)
    evaluation.keep_scores(scored, info | {"scorer": scored_as(record)})


def describe(evaluation: Evaluation) -> None:
    """What stored answers say by themselves, as probe ``text``; made again with every scoring."""
    scorer = evaluation.scored.info().get("scorer")
    report = text_report(evaluation.samples(), evaluation.scores())
    evaluation.keep_probe("text", report, {"scorer": scorer})


def described(evaluation: Evaluation, heal: Say) -> bool:
    """Whether `describe` has seen the scores that are there; damage is told, and forgotten."""
    seen, scored = evaluation.probe("text"), evaluation.scored.info()
    return seen.done(heal) and seen.info().get("scorer") == scored.get("scorer")


def score_texts(rows: list[SampleRow]) -> tuple[list[ScoreRow], dict[str, Any]]:
    """Scores by the registered text metrics, and the cards of those that packages added."""
    added = metrics.others().items()
    cards = {name: metrics.card_of(each).model_dump(mode="json") for name, each in added}
    return score_rows(rows), {"cards": cards} if cards else {}


def summarised(run: RunFolder) -> dict[str, EvaluationScores]:
    """Scores of every finished evaluation of a run, by key."""
    return {
        evaluation.key: evaluation_summary(evaluation)
        for evaluation in run.evaluations()
        if evaluation.scored.done()
    }


def protocol_of_answers(record: EvaluationRecord) -> str:
    """The protocol as tables name it: greedy answers to prompts of ours are a column of their own."""
    drawn = record.decoding if record.source != "lm-eval" else None
    greedy = drawn is not None and not drawn.temperature
    return f"{record.protocol}-greedy" if greedy else record.protocol


def evaluation_summary(evaluation: Evaluation) -> EvaluationScores:
    """What a summary says of one scored evaluation."""
    record, scored = evaluation.record.read(), evaluation.scored.info()
    counts = evaluation.generated.info().get("counts", {})
    return EvaluationScores(
        task=record.task,
        edition=record.edition,
        protocol=protocol_of_answers(record),
        template=record.template,
        metrics=scored.get("whole", {}) | evaluation_scores(evaluation.scores()),
        cards=scored.get("cards", {}),
        prompts_dropped=counts.get("dropped", 0),
        sampled=record.decoding is not None,
        column=column_id(record, scored["scorer"]),
        scorer=scored["scorer"],
        scores_sha256=content_hash(evaluation.scores_file),
    )


# -- estimates -----------------------------------------------------------------------------------


def estimates(rows: Sequence[ScoreRow], names: Sequence[str]) -> dict[str, Estimate | Missing]:
    """Mean and 95% bootstrap interval of metrics over prompts, all resampled with the same draws.

    Decoding seeds are averaged per prompt first. The order of ``rows`` does not matter.
    """
    added = metrics.others()
    if not rows:
        return {metric: Missing(missing="no prompt was scored") for metric in names}
    ordered = sorted(rows, key=lambda row: (row.doc_id, row.prompt_hash))
    found: dict[str, Estimate | Missing] = {}
    tables: dict[str, stats.Array] = {}
    for metric in names:
        if problem := _problem(ordered, metric):
            found[metric] = Missing(missing=problem)
        else:
            tables[metric] = np.array([row.metrics[metric] for row in ordered], dtype=float)
    if tables:
        values_PK = np.stack([table.mean(axis=1) for table in tables.values()], axis=1)
        bounds = zip(*stats.bootstrap_columns(values_PK), strict=True)
        for (metric, table), (mean, low, high) in zip(tables.items(), bounds, strict=True):
            per_seed = [float(value) for value in table.mean(axis=0)]
            aggregate = added[metric].aggregate if metric in added else None
            if aggregate is not None:
                mean, low, high = stats.bootstrap_aggregate(table.mean(axis=1), aggregate)
                per_seed = [aggregate(column.tolist()) for column in table.T]
            found[metric] = Estimate(
                mean=float(mean),
                low=round(metrics.clamp(metric, float(low)), stats.DECIMALS),
                high=round(metrics.clamp(metric, float(high)), stats.DECIMALS),
                n_prompts=len(ordered),
                seeds=list(ordered[0].seeds),
                per_seed=per_seed,
            )
    return {metric: found[metric] for metric in names}


def _problem(rows: Sequence[ScoreRow], metric: str) -> str:
    """Why a metric has no value, or nothing."""
    absent = sum(metric not in row.metrics for row in rows)
    if absent:
        return f"not scored for {absent} of {len(rows)} prompts"
    seeds = rows[0].seeds
    if not seeds:
        return "no decoding seed"
    if any(row.seeds != seeds or len(row.metrics[metric]) != len(seeds) for row in rows):
        return "prompts have different decoding seeds; finish the evaluation"
    bad = sum(not np.isfinite(row.metrics[metric]).all() for row in rows)
    return f"not a number for {bad} of {len(rows)} prompts" if bad else ""


def evaluation_scores(rows: Sequence[ScoreRow]) -> dict[str, Estimate | Missing]:
    """Every metric that any row of one evaluation has; what cannot be averaged says why."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    # without rows: what would be there, each with the reason
    return estimates(rows, names or ["rouge_l", "exact_match"])


# -- what answers say beyond per-prompt scores ----------------------------------------------------


def text_report(samples: Sequence[SampleRow], scores: Sequence[ScoreRow]) -> dict[str, Any]:
    """Length buckets of both papers by both tokenizers, distinct-n, length, share cut.

    Args:
        samples: all answers of one evaluation.
        scores: their per-prompt scores.
    """
    return {
        "distinct": dict(diversity(samples)) | {"unit": "words, n-grams inside answers, a seed"},
        "mean_length": mean_length(samples),
        "cut_share": cut_share(samples),
        "buckets": {
            "student": _buckets(scores) | {"signature": "reference tokens: student tokenizer"},
            "gpt2": _gpt2_buckets(samples, scores),
        },
    }


def _buckets(scores: Sequence[ScoreRow]) -> dict[str, Any]:
    names = list(scores[0].metrics) if scores else []
    found: dict[str, Any] = {}
    for paper, buckets in BUCKETS.items():
        found[paper] = {
            label: {
                "n": len(rows),
                "metrics": {
                    name: value.model_dump() for name, value in estimates(rows, names).items()
                },
            }
            for label, rows in by_length(scores, buckets).items()
        }
    return found


def _gpt2_buckets(samples: Sequence[SampleRow], scores: Sequence[ScoreRow]) -> dict[str, Any]:
    tokenizer = gpt2_tokenizer()
    if tokenizer is None:
        reason = f"the papers' tokenizer ({GPT2}) is not in this machine's Hugging Face cache"
        return Missing(missing=reason).model_dump()
    references = {row.doc_id: row.references for row in samples}
    counted = []
    for row in scores:
        ids = tokenizer(references[row.doc_id], add_special_tokens=False)["input_ids"]
        counted.append(row.model_copy(update={"reference_tokens": min(map(len, ids))}))
    return _buckets(counted) | {"signature": f"reference tokens: {GPT2}"}


@cache
def gpt2_tokenizer() -> Any:
    """GPT-2's tokenizer if it is on this machine; never looked for on the network."""
    from transformers import AutoTokenizer

    for name in (GPT2, "gpt2"):
        with contextlib.suppress(InputError), foreign(f"cannot load the tokenizer {name}"):
            return AutoTokenizer.from_pretrained(
                name, local_files_only=True, trust_remote_code=False
            )
    return None
