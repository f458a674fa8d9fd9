"""Tasks that lm-eval decodes: classification with label words, and any stock or third-party task."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.harness import lm
from kdbench.harness.config import RunConfig
from kdbench.harness.files.records import Estimate, EvaluationRecord, Missing, ScoreRow
from kdbench.harness.files.store import (
    is_done,
    make_folder,
    mark_done,
    read_json,
    write_json,
    write_text,
)
from kdbench.harness.probes.calibration import calibration
from kdbench.harness.probes.subject import SEED
from kdbench.harness.runner import probing
from kdbench.harness.runner.session import Session
from kdbench.harness.runner.task_data import check_targets
from kdbench.harness.task_names import include_folders
from kdbench.harness.text_model import TextModel
from kdbench.tasks.calibration import BINS, SCORER, predict
from kdbench.tasks.catalogue import join_edition
from kdbench.tasks.labels import LABEL_TASKS, label_docs


def evaluate_choices(
    session: Session,
    label: str,
    model: Callable[[], TextModel],
    tokenizer: Any,
    names: list[str],
    folder: Path,
    key: Callable[[EvaluationRecord], str],
) -> None:
    """Tasks that are not text tasks of ours, for one model; finished ones are skipped.

    Args:
        session: the command.
        label: for progress lines.
        model: gives the loaded model; called only if something is left to do.
        tokenizer: the model's.
        names: label tasks of ours, lm-eval's tasks, third-party tasks.
        folder: the run folder.
        key: an evaluation's key.
    """
    for name in names:
        job = _LabelJob if name in LABEL_TASKS else _StockJob
        found = job(session.config, name, tokenizer, session.request.data_dir)
        record = found.record()
        out = make_folder(folder / "eval" / key(record))
        if is_done(out, "score"):
            continue
        write_json(out / "evaluation.json", record)
        began = time.perf_counter()
        with session.progress.stage(f"{label}: {name}[{record.edition}]", 1) as live:
            results = found.run(model())
            write_json(out / "results.json", _plain({k: results.get(k) for k in KEPT}))
            scores = found.scores(results)
            lines = [row.model_dump_json() for row in scores]
            write_text(out / "scores.jsonl", "".join(f"{line}\n" for line in lines))
            if isinstance(found, _LabelJob):
                probing.keep(out, "calibration", found.calibration(results), {})
                probing.join(out)
            live.update(1)
        wall_s = time.perf_counter() - began
        session.cost("choices", wall_s)
        mark_done(out, "score", ["results.json", "scores.jsonl"], {"wall_s": wall_s})


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


def _record(
    config: RunConfig, name: str, edition: str, sha256: str, scorer: str, **settings: Any
) -> EvaluationRecord:
    return EvaluationRecord(
        task=name,
        edition=join_edition(edition, config.tasks.limit),
        protocol=config.tasks.protocol,
        limit=config.tasks.limit,
        data_sha256=sha256,
        decoding={"dtype": config.generate.dtype, **settings},
        batch_size=config.generate.batch_size,
        chunk=config.generate.chunk,
        scorer=scorer,
        seeds=[SEED],
        lm_eval_version=lm.LM_EVAL_VERSION,
    )


class _LabelJob:
    """A classification task of ours: zero-shot, softmax over the label words."""

    def __init__(self, config: RunConfig, name: str, tokenizer: Any, data_dir: Path | None) -> None:
        self._config, self._name = config, name
        task = LABEL_TASKS[name]
        self._edition = "full" if task.full else config.tasks.edition
        self._docs = label_docs(
            name,
            edition=self._edition,
            template=config.pair.template,
            tokenizer=tokenizer,
            limit=config.tasks.limit,
            data_dir=data_dir,
        )

    def record(self) -> EvaluationRecord:
        """What decides the numbers."""
        data = json.dumps(self._docs, sort_keys=True).encode()
        return _record(
            self._config,
            self._name,
            self._edition,
            hashlib.sha256(data).hexdigest(),
            SCORER,
            template=self._config.pair.template,
        )

    def run(self, model: TextModel) -> dict[str, Any]:
        """lm-eval's results."""
        return lm.evaluate_labels(model, LABEL_TASKS[self._name].lm_eval_name, self._docs)

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

    def calibration(self, results: dict[str, Any]) -> dict[str, Any]:
        """ECE with interval and reliability bins, both binnings."""
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


class _StockJob:
    """A task of lm-eval's or of a third party, as lm-eval would run it."""

    def __init__(self, config: RunConfig, name: str, tokenizer: Any, data_dir: Path | None) -> None:
        self._config, self._name = config, name
        self._folders = include_folders(config.tasks.include_path)
        self._identity = lm.stock_identity(
            name, include_paths=self._folders, limit=config.tasks.limit
        )

    def record(self) -> EvaluationRecord:
        """What decides the numbers."""
        return _record(
            self._config,
            self._name,
            "lm-eval",
            self._identity,
            f"lm-eval {lm.LM_EVAL_VERSION}",
            seed=self._config.generate.seeds[0],
        )

    def run(self, model: TextModel) -> dict[str, Any]:
        """lm-eval's results."""
        found = lm.evaluate_stock(
            model,
            tasks=[self._name],
            seed=self._config.generate.seeds[0],
            limit=self._config.tasks.limit,
            include_paths=self._folders,
        )
        check_targets(found)
        return found

    def scores(self, results: dict[str, Any]) -> list[ScoreRow]:
        """Per-prompt values of every metric that is a number a document; groups are pooled."""
        rows: list[ScoreRow] = []
        for task, logged in results["samples"].items():
            # a task may read its answers in several ways; the first is its headline
            samples = [sample for sample in logged if sample["filter"] == logged[0]["filter"]]
            names = [
                name
                for name in samples[0].get("metrics", ())
                if all(isinstance(sample[name], (int, float)) for sample in samples)
            ]
            rows += [
                ScoreRow(
                    doc_id=len(rows) + place,
                    prompt_hash=str(sample["prompt_hash"])[:16],
                    category=task if task != self._name else None,
                    reference_tokens=1,
                    seeds=[SEED],
                    metrics={name: [float(sample[name])] for name in names},
                )
                for place, sample in enumerate(sorted(samples, key=lambda s: s["doc_id"]))
            ]
        return rows


def whole_set_metrics(out: Path) -> dict[str, Estimate | Missing]:
    """Metrics that are no mean over prompts: ECE of a label task, lm-eval's own aggregates."""
    calibration_file, results_file = out / "probe-calibration.json", out / "results.json"
    if not results_file.is_file():
        return {}
    if calibration_file.is_file():
        return {"ece": Estimate.model_validate(read_json(calibration_file)["ece"])}
    found: dict[str, Estimate | Missing] = {}
    for values in (read_json(results_file).get("results") or {}).values():
        for name, value in values.items():
            metric, _, filtered = name.partition(",")
            if filtered and not metric.endswith("_stderr") and isinstance(value, float):
                found[metric] = Missing(
                    missing=f"lm-eval aggregates it over the whole set ({value:.6g}); see "
                    "results.json"
                )
    return found


def _plain(value: Any) -> Any:
    """JSON without what JSON cannot hold: functions in task configurations, numpy numbers, nan."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", None) or str(value)
