"""Tasks that read likelihoods instead of answers: classification with label words, for example."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdbench.harness.config import RunConfig
from kdbench.harness.files.records import EvaluationRecord, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.identity import digest
from kdbench.harness.probes.calibration import calibration
from kdbench.harness.probes.subject import SEED
from kdbench.harness.session import Session
from kdbench.harness.text_model import TextModel
from kdbench.tasks.calibration import BINS, SCORER, predict
from kdbench.tasks.catalogue import join_edition
from kdbench.tasks.labels import LABEL_TASKS, label_docs


class Found(NamedTuple):
    """What a task measured.

    Attributes:
        scores: values a prompt.
        whole: metrics that are no mean over prompts, each an estimate or a reason, as plain data.
        cards: how metrics that are not kdbench's own are shown.
        probes: what probes would say, by probe.
        cut: prompts that lost tokens on the left, since the model's context is too short for them.
    """

    scores: list[ScoreRow]
    whole: dict[str, Any]
    cards: dict[str, Any] = {}
    probes: dict[str, dict[str, Any]] = {}
    cut: int = 0


class Reading(NamedTuple):
    """A task whose scores come from likelihoods.

    Attributes:
        record: what decides the numbers.
        scorer: version of the scores.
        measure: asks the model; may keep files of its own in the evaluation's folder.
    """

    record: EvaluationRecord
    scorer: str
    measure: Callable[[TextModel, Evaluation], Found]


def read_likelihoods(
    session: Session, label: str, evaluation: Evaluation, task: Reading, model: Any
) -> None:
    """Runs one task and stores its scores; one that is done is left alone.

    Args:
        session: the command.
        label: of the model, for progress lines.
        evaluation: where to.
        task: what is asked.
        model: gives the loaded model.
    """
    record = task.record
    if evaluation.scored_by(task.scorer, session.progress.say):
        _tell_cut(session, record, evaluation)
        return
    evaluation.record.write(record)
    spent = session.spent(evaluation.scored)
    with session.progress.stage(f"{label}: {record.task}[{record.edition}]", 1) as live:
        found = task.measure(model(), evaluation)
        for name, report in found.probes.items():
            evaluation.keep_probe(name, report, {})
        said = {"scorer": task.scorer, "cards": found.cards, "whole": found.whole}
        if found.cut:
            said["counts"] = {"prompts_cut": found.cut}
        info = {**spent.info(), **said}
        evaluation.keep_scores(found.scores, info)
        live.update(1)
    _tell_cut(session, record, evaluation)


def _tell_cut(session: Session, record: EvaluationRecord, evaluation: Evaluation) -> None:
    cut = evaluation.scored.info().get("counts", {}).get("prompts_cut", 0)
    if cut:
        session.progress.say(
            f"note: {record.task}: {cut} prompts cut on the left: they are longer than the model's context"
        )


def label_task(
    name: str, config: RunConfig, facts: dict[str, Any], tokenizer: Any, data_dir: Path | None
) -> Reading:
    """A classification task of ours: zero-shot, softmax over the label words."""
    edition = "full" if LABEL_TASKS[name].full else config.tasks.edition
    template, limit = config.task_template, config.tasks.limit
    docs = label_docs(
        name,
        edition=edition,
        template=config.task_format,
        tokenizer=tokenizer,
        limit=limit,
        data_dir=data_dir,
    )

    def measure(model: TextModel, evaluation: Evaluation) -> Found:
        from kdbench.harness.lm.likelihoods import label_likelihoods

        likelihoods, cut = label_likelihoods(model, docs)
        found = [predict(each, doc["gold"]) for each, doc in zip(likelihoods, docs, strict=True)]
        confidence = np.array([each.confidence for each in found])
        correct = np.array([each.correct for each in found])
        report = {
            "of": f"label words, zero-shot, softmax over their log-probabilities, {BINS} bins",
            **calibration(confidence, correct),
            "equal_mass": calibration(confidence, correct, binning="mass"),
            "brier": float(np.mean([each.brier for each in found])),
        }
        scores = [
            ScoreRow(
                doc_id=doc["doc_id"],
                prompt_hash=doc["prompt_hash"],
                category=doc["category"] or None,
                reference_tokens=1,
                seeds=[SEED],
                metrics={"acc": [each.correct], "brier": [each.brier]},
            )
            for doc, each in zip(docs, found, strict=True)
        ]
        return Found(scores, {"ece": report["ece"]}, probes={"calibration": report}, cut=cut)

    record = EvaluationRecord(
        task=name,
        edition=join_edition(edition, limit),
        protocol=config.tasks.protocol,
        template=template,
        data_sha256=digest(docs),
        seeds=[SEED],
        **facts,
    )
    return Reading(record, SCORER, measure)
