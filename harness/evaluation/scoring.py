"""From stored samples to per-prompt scores, and from those to what a summary says. No model."""

from typing import Any

from kdbench.harness import metrics
from kdbench.harness.evaluation.estimates import evaluation_scores
from kdbench.harness.evaluation.texts import text_report
from kdbench.harness.files.records import (
    Estimate,
    EvaluationRecord,
    EvaluationScores,
    MetricCard,
    Missing,
    SampleRow,
    ScoreRow,
)
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.identity import column_id
from kdbench.tasks.scoring import SCORER, score_rows


def scored_as(record: EvaluationRecord) -> str:
    """What would score samples of this evaluation now; stored scores of another are made again."""
    if record.source == "lm-eval":
        from kdbench.harness.lm.tasks import SCORED_BY

        return SCORED_BY
    return SCORER + metrics.versions_of_others()


def score(evaluation: Evaluation) -> None:
    """Per-prompt scores of stored samples: text in, numbers out."""
    record = evaluation.record.read()
    rows = [row for seed in record.seeds for row in evaluation.samples(seed)]
    if record.source == "lm-eval":
        from kdbench.harness.evaluation.stock import score_samples

        scored, info = score_samples(record, evaluation, rows)
    else:
        scored, info = score_texts(rows)
    evaluation.keep_scores(scored, info | {"scorer": scored_as(record)})
    evaluation.keep_probe("text", text_report(rows, scored), {})


def score_texts(rows: list[SampleRow]) -> tuple[list[ScoreRow], dict[str, Any]]:
    """Scores by the registered text metrics, and the cards of those that packages added."""
    added = {name: metrics.card_of(name, each) for name, each in metrics.others().items()}
    cards = {name: card.model_dump(mode="json") for name, card in added.items()}
    return score_rows(rows), {"cards": cards} if cards else {}


def summarised(run: RunFolder) -> dict[str, EvaluationScores]:
    """Scores of every finished evaluation of a run, by key."""
    return {
        evaluation.key: evaluation_summary(evaluation)
        for evaluation in run.evaluations()
        if evaluation.scored.done()
    }


def evaluation_summary(evaluation: Evaluation) -> EvaluationScores:
    """What a summary says of one scored evaluation."""
    record, scored = evaluation.record.read(), evaluation.scored.info()
    counts = evaluation.generated.info().get("counts", {})
    whole = {name: _whole(value) for name, value in scored.get("whole", {}).items()}
    return EvaluationScores(
        task=record.task,
        edition=record.edition,
        protocol=record.protocol,
        template=record.template,
        metrics=whole | evaluation_scores(evaluation.scores()),
        cards={name: MetricCard(**card) for name, card in scored.get("cards", {}).items()},
        prompts_dropped=counts.get("dropped", 0),
        sampled=record.decoding is not None,
        column=column_id(record, scored["scorer"]),
        scorer=scored["scorer"],
    )


def _whole(value: dict[str, Any]) -> Estimate | Missing:
    """A metric that is no mean over prompts, as its scoring stored it."""
    model = Missing if "missing" in value else Estimate
    return model.model_validate(value)
