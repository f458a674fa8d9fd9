"""Small run folders with everything a board's page shows, written by hand."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evaluations import DECODING, SEEDS, write_evaluation

from kdbench.harness.files.records import (
    Estimate,
    Manifest,
    ModelRef,
    RunCard,
    SampleRow,
    ScoreRow,
    StageCost,
    Summary,
)
from kdbench.harness.files.run_folder import RunFolder
from kdbench.reports.board import Board, build

TEACHER = ModelRef(name="big", fingerprint="b" * 16, parameters=1_000_000)
STUDENT = ModelRef(name="small", fingerprint="s" * 16, parameters=100_000)
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
    likelihood: Collection[str] = (),
    **card: Any,
) -> Path:
    """One finished run whose ROUGE-L is about ``level``; ``text`` and ``note`` go wherever a model
    or a user could have written something. No answers are drawn for tasks in ``likelihood``."""
    number = len(list(runs.glob("*"))) if runs.exists() else 0
    folder = runs / f"run-{number:012x}"
    scores = {}
    for task in tasks:
        rows = _rows(method, task, level)
        samples = {seed: _samples(rows, seed, method, task, text) for seed in SEEDS}
        decoding = DECODING if task not in likelihood else None
        evaluation, found = write_evaluation(
            RunFolder(folder), task, rows, samples, edition=edition, decoding=decoding
        )
        scores[evaluation.key] = found
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
        probes=dict.fromkeys(scores, probes) if probes else {},
        judge={name: {"evaluations": {key: {"metrics": metrics} for key in scores}}
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


def as_metric(folder: Path, task: str, name: str, unit: float, **card: Any) -> None:
    """Makes the ROUGE-L of a task a metric of others: its name, its unit, how a summary describes it."""
    run = RunFolder(folder)
    known = json.loads(run.summary.path.read_text())
    (key,) = (key for key in known["scores"] if key.startswith(f"{task}@"))
    file = run.evaluation(key).scores_file
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["metrics"] = {name: [unit * value for value in row["metrics"]["rouge_l"]]}
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    scores = known["scores"][key]
    value = scores["metrics"]["rouge_l"]
    scores["metrics"] = {name: value | {end: unit * value[end] for end in ("mean", "low", "high")}}
    scores["cards"] = {name: {"label": name, "headline": True, "better": 1} | card}
    run.summary.path.write_text(json.dumps(known))


def build_board(runs: Path | Sequence[Path], **options: Any) -> Board:
    """The board of these runs."""
    return build(runs, **options).board


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


def _samples(
    rows: Sequence[ScoreRow], seed: int, method: str, task: str, text: str
) -> list[SampleRow]:
    return [
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
        )
        for row in rows
    ]
