"""Tasks that read likelihoods: classification with label words, and lm-eval's that answer nothing."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdbench.harness.config import RunConfig
from kdbench.harness.evaluation.names import include_folders
from kdbench.harness.evaluation.rehearsal import check_targets
from kdbench.harness.files.records import EvaluationRecord, Missing, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.files.store import write_json
from kdbench.harness.identity import digest
from kdbench.harness.lm.likelihoods import evaluate_labels, evaluate_stock
from kdbench.harness.lm.tasks import SCORED_BY, metric_cards, stock_identity
from kdbench.harness.probes.calibration import calibration
from kdbench.harness.probes.subject import SEED
from kdbench.harness.session import Session
from kdbench.harness.text_model import TextModel
from kdbench.tasks.calibration import BINS, SCORER, predict
from kdbench.tasks.catalogue import join_edition
from kdbench.tasks.labels import LABEL_TASKS, label_docs


class Task(Protocol):
    """A task whose scores come from likelihoods."""

    scorer: str

    def record(self) -> EvaluationRecord:
        """What decides the numbers."""

    def run(self, model: TextModel) -> dict[str, Any]:
        """lm-eval's results with its samples."""

    def scores(self, results: dict[str, Any]) -> list[ScoreRow]:
        """Values a prompt."""

    def whole(self, results: dict[str, Any]) -> dict[str, Any]:
        """Metrics that are no mean over prompts, each an estimate or a reason, as plain data."""

    def reports(self, results: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What probes would say, by probe."""


KEPT = (
    "results",
    "groups",
    "versions",
    "n-shot",
    "higher_is_better",
    "n-samples",
    "task_hashes",
    "configs",
)
"""What of lm-eval's results goes into results.json, beside kdbench's own files."""


def read_likelihoods(
    session: Session, label: str, evaluation: Evaluation, task: Task, model: Any
) -> None:
    """Runs one task and stores its scores; one that is done is left alone.

    Args:
        session: the command.
        label: of the model, for progress lines.
        evaluation: where to.
        task: what is asked.
        model: gives the loaded model as lm-eval's door takes it.
    """
    if evaluation.scored.done() and evaluation.scored.info().get("scorer") == task.scorer:
        return
    record = task.record()
    evaluation.record.write(record)
    began = time.perf_counter()
    with session.progress.stage(f"{label}: {record.task}[{record.edition}]", 1) as live:
        results = task.run(model())
        write_json(evaluation.results, plain({k: results.get(k) for k in KEPT}))
        for name, report in task.reports(results).items():
            evaluation.keep_probe(name, report, {})
        wall_s = time.perf_counter() - began
        info = {
            "wall_s": wall_s,
            "scorer": task.scorer,
            "cards": metric_cards(results),
            "whole": task.whole(results),
        }
        evaluation.keep_scores(task.scores(results), info)
        live.update(1)
    session.cost("choices", wall_s)


class LabelTask:
    """A classification task of ours: zero-shot, softmax over the label words."""

    scorer = SCORER

    def __init__(
        self,
        config: RunConfig,
        facts: dict[str, Any],
        name: str,
        tokenizer: Any,
        data_dir: Path | None,
    ) -> None:
        task = LABEL_TASKS[name]
        self._config, self._facts, self._name = config, facts, name
        self._edition = "full" if task.full else config.tasks.edition
        self._template = config.tasks.template or config.pair.template
        self._docs = label_docs(
            name,
            edition=self._edition,
            template=self._template,
            tokenizer=tokenizer,
            limit=config.tasks.limit,
            data_dir=data_dir,
        )

    def record(self) -> EvaluationRecord:
        """What decides the numbers."""
        return EvaluationRecord(
            task=self._name,
            edition=join_edition(self._edition, self._config.tasks.limit),
            protocol=self._config.tasks.protocol,
            template=self._template,
            data_sha256=digest(self._docs),
            seeds=[SEED],
            **self._facts,
        )

    def run(self, model: TextModel) -> dict[str, Any]:
        """lm-eval's results."""
        return evaluate_labels(model, LABEL_TASKS[self._name].lm_eval_name, self._docs)

    def scores(self, results: dict[str, Any]) -> list[ScoreRow]:
        """Accuracy and Brier score a prompt."""
        return [
            ScoreRow(
                doc_id=doc["doc_id"],
                prompt_hash=doc["prompt_hash"],
                category=doc["category"] or None,
                reference_tokens=1,
                seeds=[SEED],
                metrics={"acc": [found.correct], "brier": [found.brier]},
            )
            for doc, found in self._predictions(results)
        ]

    def whole(self, results: dict[str, Any]) -> dict[str, Any]:
        """The calibration error."""
        return {"ece": self._calibration(results)["ece"]}

    def reports(self, results: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """ECE with interval and reliability bins, both binnings."""
        return {"calibration": self._calibration(results)}

    def _calibration(self, results: dict[str, Any]) -> dict[str, Any]:
        predictions = [found for _, found in self._predictions(results)]
        confidence = np.array([found.confidence for found in predictions])
        correct = np.array([found.correct for found in predictions])
        return {
            "of": f"label words, zero-shot, softmax over their log-probabilities, {BINS} bins",
            **calibration(confidence, correct),
            "equal_mass": calibration(confidence, correct, binning="mass"),
            "brier": float(np.mean([found.brier for found in predictions])),
        }

    def _predictions(self, results: dict[str, Any]) -> list[Any]:
        samples = results["samples"][LABEL_TASKS[self._name].lm_eval_name]
        ordered = sorted(samples, key=lambda sample: sample["doc_id"])
        return [
            (doc, predict([float(pair[0]) for pair in sample["filtered_resps"]], doc["gold"]))
            for doc, sample in zip(self._docs, ordered, strict=True)
        ]


class StockTask:
    """A task of lm-eval's or of a third party that reads likelihoods, as lm-eval would run it."""

    scorer = SCORED_BY

    def __init__(self, config: RunConfig, facts: dict[str, Any], name: str) -> None:
        self._config, self._facts, self._name = config, facts, name
        self._folders = include_folders(config.tasks.include_path)

    def record(self) -> EvaluationRecord:
        """What decides the numbers: lm-eval's own prompts, without a template."""
        limit = self._config.tasks.limit
        return EvaluationRecord(
            task=self._name,
            source="lm-eval",
            place=self._config.tasks.include_path or "",
            edition=join_edition("lm-eval", limit),
            protocol=self._config.tasks.protocol,
            template="none",
            data_sha256=stock_identity(self._name, include_paths=self._folders, limit=limit),
            seeds=[SEED],
            **self._facts,
        )

    def run(self, model: TextModel) -> dict[str, Any]:
        """lm-eval's results."""
        limit = self._config.tasks.limit
        found = evaluate_stock(model, tasks=[self._name], limit=limit, include_paths=self._folders)
        check_targets(found)
        return found

    def scores(self, results: dict[str, Any]) -> list[ScoreRow]:
        """Per-prompt values of every metric that is a number a document; groups are pooled."""
        return [
            ScoreRow(
                doc_id=place,
                prompt_hash=str(sample["prompt_hash"])[:16],
                category=task if task != self._name else None,
                reference_tokens=1,
                seeds=[SEED],
                metrics={name: [float(sample[name])] for name in names},
            )
            for place, (task, sample, names) in enumerate(documents(results))
        ]

    def whole(self, results: dict[str, Any]) -> dict[str, Any]:
        """What lm-eval aggregates over the whole set only."""
        return whole_set(results)

    def reports(self, results: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Nothing."""
        return {}


def documents(results: dict[str, Any]) -> Sequence[tuple[str, dict[str, Any], list[str]]]:
    """(task, logged sample, metrics that are numbers a document) in order of tasks and documents."""
    found = []
    for task, logged in results["samples"].items():
        # a task may read its answers in several ways; the first is its headline
        samples = [sample for sample in logged if sample["filter"] == logged[0]["filter"]]
        names = [
            name
            for name in samples[0].get("metrics", ())
            if all(isinstance(sample[name], (int, float)) for sample in samples)
        ]
        found += [(task, sample, names) for sample in sorted(samples, key=lambda s: s["doc_id"])]
    return found


def whole_set(results: dict[str, Any]) -> dict[str, Any]:
    """lm-eval's own aggregates, which have no interval here: a reason that names the value."""
    found: dict[str, Any] = {}
    for values in (results.get("results") or {}).values():
        for name, value in values.items():
            metric, _, filtered = name.partition(",")
            if filtered and not metric.endswith("_stderr") and isinstance(value, float):
                reason = f"lm-eval aggregates it over the whole set ({value:.6g}); see results.json"
                found[metric] = Missing(missing=reason).model_dump()
    return found


def plain(value: Any) -> Any:
    """JSON without what JSON cannot hold: functions in task configurations, numpy numbers, nan."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", None) or str(value)
