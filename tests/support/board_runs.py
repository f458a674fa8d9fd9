"""Small run folders with everything a board's page shows, written by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.harness.evaluation.estimates import evaluation_scores
from kdbench.harness.files.records import (
    Estimate,
    EvaluationRecord,
    Manifest,
    ModelRef,
    RunCard,
    SampleRow,
    ScoreRow,
    StageCost,
    Summary,
)

TEACHER = ModelRef(name="big", fingerprint="b" * 16, parameters=1_000_000)
STUDENT = ModelRef(name="small", fingerprint="s" * 16, parameters=100_000)
SEEDS = [10, 20]
PROMPTS = 30
PLACES = ("--runs-dir", "/private/place", "--data-dir=/private/data")


def write_run(
    runs: Path,
    method: str,
    level: float,
    *,
    tasks: Sequence[str] = ("dolly",),
    edition: str = "mini",
    text: str = "answer",
    note: str = "plain",
    probes: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
    **card: Any,
) -> Path:
    """One finished run whose ROUGE-L is about ``level``; ``text`` and ``note`` go wherever a model
    or a user could have written something."""
    number = len(list(runs.glob("*"))) if runs.exists() else 0
    folder = runs / f"run-{number:012x}"
    key_of = {task: f"{task}@{edition.encode().hex()[:8]:0>8}" for task in tasks}
    scores = {}
    for task, key in key_of.items():
        rows = _rows(method, task, level)
        scores[key] = evaluation_scores(rows, task=task, edition=edition, protocol="strict")
        _write_evaluation(folder / "eval" / key, task, edition, rows, method, text)
    fields = {
        "id": f"{number:012x}",
        "kind": "run",
        "method": method,
        "suite": "mini",
        "regime": "matched",
        "teacher": TEACHER,
        "student": STUDENT,
        "training_seed": 1,
        "division": "closed",
    }
    summary = Summary(
        run=RunCard.model_validate(fields | card),
        scores=scores,
        probes=dict.fromkeys(key_of.values(), probes) if probes else {},
        judge={name: {"evaluations": {key: {"metrics": metrics} for key in key_of.values()}}
               for name, metrics in (judge or {}).items()},
        cost={"train": StageCost(wall_s=90.5, tokens={note: 1000}, peak_mb=12.0)},
        learned={"dev_loss": 1.25},
        signature=note,
    )  # fmt: skip
    (folder / "summary.json").write_text(summary.model_dump_json())
    manifest = Manifest(
        kdbench="0.1.0",
        git_commit="c" * 40,
        git_diff_sha256=None,
        argv=["kdbench", "run", *PLACES, "--method", method, "--set", f"note={note}"],
        config={"suite": "mini", "train": {"lr": 0.1, "note": note}, note: {"key": [note]}},
        versions={"torch": note},
        hardware={"cpu": note},
        data={note: {"sha256": "e" * 64, "rows": 3}},
        tokenizer_sha256="f" * 64,
        teacher=TEACHER,
        init=None,
        generation={},
        seeds={},
        cost={},
        drift=[note],
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def estimate(mean: float, half: float = 1.0) -> dict[str, Any]:
    """An estimate as a summary stores it."""
    value = Estimate(mean=mean, low=mean - half, high=mean + half, n_prompts=PROMPTS, seeds=[0])
    return value.model_dump()


def _rows(method: str, task: str, level: float) -> list[ScoreRow]:
    rng = np.random.default_rng([*task.encode(), *method.encode()])
    rouge = (level + rng.normal(0, 3, (PROMPTS, len(SEEDS)))).clip(0, 100).round(2)
    return [
        ScoreRow(
            doc_id=i,
            prompt_hash=f"{i:016x}",
            reference_tokens=5,
            seeds=SEEDS,
            metrics={"rouge_l": rouge[i].tolist(), "exact_match": [0.0, 0.0]},
        )
        for i in range(PROMPTS)
    ]


def _write_evaluation(
    out: Path, task: str, edition: str, rows: Sequence[ScoreRow], method: str, text: str
) -> None:
    record = EvaluationRecord(
        task=task,
        edition=edition,
        protocol="strict",
        limit=None,
        data_sha256="d",
        decoding={"temperature": 1.0},
        batch_size=8,
        chunk=64,
        scorer="1",
        seeds=SEEDS,
        lm_eval_version="0.4.13",
    )
    out.mkdir(parents=True)
    (out / "evaluation.json").write_text(record.model_dump_json())
    (out / "scores.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    for seed in SEEDS:
        samples = [
            SampleRow(
                doc_id=row.doc_id,
                prompt_hash=row.prompt_hash,
                seed=seed,
                prompt=f"{task} question {row.doc_id} {text}",
                references=[f"reference {row.doc_id} {text}"],
                category=("open_qa", "classification")[row.doc_id % 2],
                response=f"{method} says {row.doc_id} with seed {seed} {text}",
                response_tokens=4,
                finished=row.doc_id % 3 > 0,
                reference_tokens=5,
            ).model_dump(mode="json")
            for row in rows
        ]
        lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
        (out / f"samples.seed{seed}.jsonl").write_text("".join(lines))
