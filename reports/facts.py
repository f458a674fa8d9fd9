"""Facts of a run that comparison rules look at, read from its folder."""

import hashlib
import json
from typing import Any

from kdbench.harness.files.records import Estimate, EvaluationScores, PrepareRecord
from kdbench.harness.files.run_folder import Evaluation
from kdbench.reports.runs import Run, prompt_scores

Value = str | float
Fact = dict[str, list[Value]]
"""Label -> values: ``""`` of the whole run, else a task (``dolly``) or an evaluation (``dolly[mini]
strict``). Several values are several evaluations that differ in this; an empty list: not recorded."""
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
    """What comparison rules can look at: facts of a trained run, read from its folder.

    None if the folder does not hold them (a summary alone).

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
    tuning = config.get("tuning") or {}
    trials = tuning.get("trials")
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
        "trials": _one(_searched(tuning)),
        "judge": {"": sorted(run.summary.judge)} if run.summary.judge else {},
        "probes": {},
        "prompts": {},
        **{fact: {} for fact in (*OF_EVALUATIONS, *OVERLAPS)},
    }
    for key, scores in sorted(run.summary.scores.items()):
        label = f"{scores.task}[{scores.edition}] {scores.protocol}"
        known = _evaluation(run, key, scores, evaluations)
        for fact in known.keys() & set(OF_EVALUATIONS):
            values = found[fact].setdefault(label, [])
            values += [known[fact]] if known[fact] not in values else []
        if known.get("ours", scores.sampled):  # others' prompts are not looked for in training rows
            for fact, name in OVERLAPS.items():
                found[fact][scores.task] = _overlap(prepared, scores, name.format(scores.task))
        if evaluations is None and (answered := _prompts(run.folder.evaluation(key))):
            found["prompts"].setdefault(label, []).extend(answered)
        for probe, report in sorted(run.summary.probes.get(key, {}).items()):
            told = [f"{name} {report[name]}" for name in MEASURED_WITH if name in report]
            if told:
                found["probes"].setdefault(f"{label} {probe}", []).append(", ".join(told))
    return found


def _one(value: Value | None) -> Fact:
    return {"": [] if value in (None, "") else [value]}


def _searched(tuning: Tree) -> str:
    """What a search spent; nothing of settings found by hand, which differ in more than a number."""
    if tuning.get("by") != "search":
        return ""
    again = tuning.get("finalists") or 0
    said = f"{tuning.get('trials')} trials of {tuning.get('share')} of the budget"
    return f"{said}, {again} of them at the whole" if again else said


def _budget(train: Tree) -> str:
    parts = [f"{train[name]} {name}" for name in BUDGET if train.get(name) is not None]
    return " or ".join(parts).replace("_", " ")


def _evaluation(
    run: Run, key: str, scores: EvaluationScores, known: Evaluations | None
) -> dict[str, Value]:
    """What was evaluated how; ``ours``: a generation task of kdbench, or a file of rows."""
    name, known = f"{key} {scores.scorer}", {} if known is None else known
    if name in known:
        return known[name]
    found: dict[str, Value] = {}
    if record := run.folder.evaluation(key).record.find():
        decoding = record.decoding.model_dump(exclude_defaults=True) if record.decoding else {}
        found = {
            "seeds": ",".join(map(str, record.seeds)) or "none",
            "decoding": json.dumps(decoding, sort_keys=True),
            "test_data": record.data_sha256,
            "scorer": scores.scorer,
            "ours": scores.sampled and record.source in ("kdbench", "file"),
        }
    known[name] = found
    return found


def _overlap(prepared: PrepareRecord, scores: EvaluationScores, name: str) -> list[Value]:
    """Share of a task's prompts that are among the rows of ``name``; nothing if not recorded."""
    asked = [v.n_prompts for v in scores.metrics.values() if isinstance(v, Estimate)]
    prompts = prepared.overlaps.get(f"{scores.task} rows") or max(asked, default=0)
    counted = prepared.overlaps.get(name)
    return [counted / prompts] if counted is not None and prompts else []


def _prompts(evaluation: Evaluation) -> list[Value]:
    """How many prompts were answered, and a digest of them word by word."""
    if not evaluation.scores_file.is_file():
        return []
    ids = prompt_scores(evaluation).ids
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    return [f"{len(ids)} prompts {digest[:12]}"]
