"""What a rule can look at: facts of a run, read from its folder.

A fact is a mapping of labels to values: ``{"": [value]}`` for one of the whole run, one entry a task
(``dolly``) or an evaluation (``dolly[mini] strict``) otherwise. Several values of a label are
several evaluations that differ in this fact; an empty list says that nothing was recorded.
"""

import hashlib
import json
from typing import Any

from kdbench.harness.files.records import Estimate, EvaluationScores, PrepareRecord
from kdbench.reports.runs import Run, prompt_scores

Value = str | float
Fact = dict[str, list[Value]]
Facts = dict[str, Fact]
Evaluations = dict[str, dict[str, Value]]
"""Facts of evaluations by key and scorer."""
Tree = dict[str, Any]

MEASURED_WITH = ("teacher", "samples", "seed")
BUDGET = ("response_tokens", "steps", "epochs")
OF_EVALUATIONS = ("seeds", "decoding", "test_data", "scorer")
OVERLAPS = {"exact_overlap": "train&{}", "dev_overlap": "dev&{}", "ngram_overlap": "train~{}"}
"""Fact -> what preparation calls the prompts of a task that training or development rows have."""


def facts(run: Run, evaluations: Evaluations | None = None) -> Facts | None:
    """Facts of a trained run; None if its folder does not hold them (a summary alone).

    Args:
        run: a finished run.
        evaluations: what is known of evaluations by key and scorer, shared between runs: a key is the
            hash of what it stands for, but for what scored it again. None: read each run's own
            records, and which prompts it answered.

    Raises:
        InputError: a file of the run cannot be read.
    """
    stored, prepared = run.folder.config.find(), run.folder.prepare.find()
    if stored is None or prepared is None:
        return None
    config = stored.tree()
    train = config.get("train") or {}
    spent = run.summary.cost.get("train")
    trials = (config.get("tuning") or {}).get("trials")
    data = {split: of.get("sha256") for split, of in prepared.data.items()}
    found: Facts = {
        "regime": _one(config.get("regime")),
        "teacher": _one(prepared.teacher.fingerprint if prepared.teacher else None),
        "init": _one(prepared.init.fingerprint if prepared.init else None),
        "train_data": _one(data.get("train")),
        "dev_data": _one(data.get("dev")),
        "text_data": _one(data.get("text") or "none"),
        "budget": _one(_budget(train)),
        "response_tokens": _one(spent.tokens.get("response") if spent else None),
        "select": _one(train.get("select")),
        "tuning": _one(f"{trials} tried" if trials is not None else None),
        "judge": {"": sorted(run.summary.judge)} if run.summary.judge else {},
        "probes": {},
        "prompts": {},
        **{fact: {} for fact in (*OF_EVALUATIONS, *OVERLAPS)},
    }
    for key, scores in sorted(run.summary.scores.items()):
        label = f"{scores.task}[{scores.edition}] {scores.protocol}"
        known = _evaluation(run, key, scores, evaluations)
        for fact in OF_EVALUATIONS:
            if fact in known:
                _add(found[fact], label, known[fact])
        if known.get("ours", scores.sampled):  # others' prompts are not looked for in training rows
            for fact, name in OVERLAPS.items():
                found[fact][scores.task] = _overlap(prepared, scores, name.format(scores.task))
        if evaluations is None:
            _add_prompts(found["prompts"], label, run, key)
        for probe, report in sorted(run.summary.probes.get(key, {}).items()):
            told = [f"{name} {report[name]}" for name in MEASURED_WITH if name in report]
            if told:
                found["probes"].setdefault(f"{label} {probe}", []).append(", ".join(told))
    return found


def _one(value: Value | None) -> Fact:
    return {"": [] if value in (None, "") else [value]}


def _add(fact: Fact, label: str, value: Value) -> None:
    values = fact.setdefault(label, [])
    if value not in values:
        values.append(value)


def _budget(train: Tree) -> str:
    parts = [f"{train[name]} {name}" for name in BUDGET if train.get(name) is not None]
    return " or ".join(parts).replace("_", " ")


def _evaluation(
    run: Run, key: str, scores: EvaluationScores, known: Evaluations | None
) -> dict[str, Value]:
    """What was evaluated how; ``ours``: a generation task of kdbench."""
    name = f"{key} {scores.scorer}"
    if known is not None and name in known:
        return known[name]
    found: dict[str, Value] = {}
    record = run.folder.evaluation(key).record.find()
    if record is not None:
        decoding = record.decoding.model_dump(exclude_defaults=True) if record.decoding else {}
        found = {
            "seeds": ",".join(map(str, record.seeds)) or "none",
            "decoding": json.dumps(decoding, sort_keys=True),
            "test_data": record.data_sha256,
            "scorer": scores.scorer,
            "ours": scores.sampled and record.source == "kdbench",
        }
    if known is not None:
        known[name] = found
    return found


def _overlap(prepared: PrepareRecord, scores: EvaluationScores, name: str) -> list[Value]:
    """Share of a task's prompts that are among the rows of ``name``; nothing if not recorded."""
    asked = [v.n_prompts for v in scores.metrics.values() if isinstance(v, Estimate)]
    prompts = prepared.overlaps.get(f"{scores.task} rows") or max(asked, default=0)
    counted = prepared.overlaps.get(name)
    return [counted / prompts] if counted is not None and prompts else []


def _add_prompts(fact: Fact, label: str, run: Run, key: str) -> None:
    """How many prompts were answered, and a digest of them word by word."""
    evaluation = run.folder.evaluation(key)
    if evaluation.scores_file.is_file():
        ids = prompt_scores(evaluation).ids
        digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
        fact.setdefault(label, []).append(f"{len(ids)} prompts {digest[:12]}")
