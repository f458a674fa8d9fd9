"""Run folders written by hand, with all that a report of a run can show."""

import json
import math
from pathlib import Path
from typing import Any

from evaluations import write_evaluation

from kdbench.harness.files.records import (
    Manifest,
    ModelRef,
    PrepareRecord,
    RunCard,
    SampleRow,
    ScoreRow,
    StageCost,
    Summary,
    TrainRow,
)
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import append_rows, write_json

TEACHER = ModelRef(name="/home/someone/models/big", fingerprint="b" * 64, parameters=1_000_000)
INIT = ModelRef(name="small", fingerprint="a" * 64, parameters=100_000)
STUDENT = ModelRef(name="small", fingerprint="c" * 64, parameters=100_000)
CONFIG: dict[str, Any] = {
    "suite": "mini",
    "regime": "matched",
    "pair": {"teacher": "/home/someone/models/big", "student": "small"},
    "data": {"train": "mini"},
    "method": {"name": "fkd", "options": {"temperature": 1.0}},
    "train": {"seed": 10, "response_tokens": 320_000, "lr": 0.001},
    "tasks": {"names": ["dolly"], "probes": []},
}


def trained_run(
    runs: Path, method: str = "fkd", *, answer: str = "an answer", seconds: float = 60.0
) -> Path:
    """A finished training run with one evaluation, curves, probes and costs."""
    folder = runs / f"{''.join(filter(str.isalnum, method))[:20]}-small-0123456789ab"
    config = CONFIG | {"method": {"name": method, "options": {}}}
    write_json(folder / "config.json", config)
    prepare = PrepareRecord(teacher=TEACHER, init=INIT, data=data())
    write_json(folder / "prepare.json", prepare)
    append_rows(folder / "train" / "metrics.jsonl", training())
    (folder / "train" / "student").mkdir()
    Stage(folder / "train", "train").mark(info={"best_step": 20, "steps": 40})
    card = RunCard(
        id="0123456789ab",
        kind="run",
        method=method,
        suite="mini",
        regime="matched",
        teacher=TEACHER,
        student=STUDENT,
        training_seed=10,
        division="closed",
    )
    cost = {
        "train": StageCost(wall_s=seconds, tokens={"student": 5000}, peak_mb=100.0),
        "generate": StageCost(wall_s=2.5, tokens={"sampled": 300}),
    }
    evaluated(folder, card, answer, level=30.0, cost=cost)
    write_json(folder / "manifest.json", manifest(config))
    return folder


def reference_run(runs: Path, label: str, model: ModelRef, answer: str = "a better one") -> Path:
    """A teacher or an init, evaluated on the same prompts."""
    folder = runs / f"eval-{label}-0123456789ab"
    write_json(folder / "config.json", CONFIG)
    card = RunCard(
        id="0123456789ab",
        kind="eval",
        method=label,
        suite="mini",
        regime="matched",
        teacher=TEACHER,
        student=model,
        training_seed=None,
        division="reference",
    )
    evaluated(folder, card, answer, level=60.0, cost={})
    return folder


def evaluated(
    folder: Path, card: RunCard, answer: str, *, level: float, cost: dict[str, StageCost]
) -> None:
    """Samples, scores, probes and the summary of one evaluation."""
    rows = scores(level)
    model = card.student.fingerprint if card.student else "truth"
    given = {seed: samples(rows, seed, answer) for seed in (10, 20)}
    evaluation, found = write_evaluation(RunFolder(folder), "dolly", rows, given, model=model)
    evaluation.generated.mark([], {"counts": {"dropped": 0}})
    evaluation.scored.mark([evaluation.scores_file], {"scorer": "1"})
    probes = {evaluation.key: probe_reports(level)}
    signature = "kdbench:test|seeds:10,20"
    write_json(
        folder / "summary.json",
        Summary(
            run=card,
            scores={evaluation.key: found},
            probes=probes,
            cost=cost,
            learned={"dev_loss_before": 2.0, "dev_loss_selected": 1.5},
            signature=signature,
        ),
    )


def training() -> list[TrainRow]:
    """Forty steps of a falling loss, two terms, and three evaluations."""
    rows = []
    for step in range(41):
        evaluation = {"dev_loss": 2.0 - step / 80, "dev_rouge_l": 20.0 + step / 4}
        rows.append(
            TrainRow(
                step=step,
                loss=2.0 / (1 + step / 10),
                terms={} if step == 0 else {"a": 1 / step, "b": 0.5, "a/entropy": math.sin(step)},
                grad_norm=None if step == 0 else 1.0,
                lr=None if step == 0 else 1e-3,
                tokens={} if step == 0 else {"response": 100 * step},
                evaluation=evaluation if step % 20 == 0 else {},
            )
        )
    return rows


def scores(level: float) -> list[ScoreRow]:
    """Twelve prompts of rising score."""
    return [
        ScoreRow(
            doc_id=place,
            prompt_hash=f"{place:016x}",
            reference_tokens=4 * place,
            seeds=[10, 20],
            metrics={"rouge_l": [level + place, level - place], "exact_match": [0.0, 0.0]},
        )
        for place in range(12)
    ]


def samples(rows: list[ScoreRow], seed: int, answer: str) -> list[SampleRow]:
    """One answer a prompt."""
    return [
        SampleRow(
            doc_id=row.doc_id,
            prompt_hash=row.prompt_hash,
            seed=seed,
            prompt=f"question {row.doc_id}",
            references=["the reference"],
            response=f"{answer} {row.doc_id}",
            response_tokens=5,
            finished=row.doc_id != 0,
            reference_tokens=row.reference_tokens,
        )
        for row in rows
    ]


def probe_reports(level: float) -> dict[str, Any]:
    """What the runner stores of text, exposure and calibration probes."""

    def estimate(mean: float) -> dict[str, Any]:
        return {"mean": mean, "low": mean - 1, "high": mean + 1, "n_prompts": 6, "seeds": [0]}

    def curve(factor: float) -> dict[str, list[float | None]]:
        values = [factor * place for place in range(1, 9)]
        return {
            "value": [None, *values[1:]],
            "low": [None, *(v - 0.5 for v in values[1:])],
            "high": [None, *(v + 0.5 for v in values[1:])],
        }

    bucket = {"n": 6, "metrics": {"rouge_l": estimate(level)}}
    empty = {"n": 0, "metrics": {}}
    edges = [place / 5 for place in range(6)]
    bins = [
        {
            "low": low,
            "high": high,
            "count": count,
            "confidence": (low + high) / 2 if count else None,
            "accuracy": high if count else None,
        }
        for low, high, count in zip(edges, edges[1:], (0, 3, 40, 500, 2), strict=False)
    ]
    return {
        "text": {
            "buckets": {
                "student": {
                    "minillm": {"[0,5]": bucket, "[6,10]": bucket, "[11,∞)": empty},
                    "dpkd": {"(0,30)": bucket, "[30,70)": empty, "[70,∞)": empty},
                }
            }
        },
        "exposure": {
            "prompts": 6,
            "samples": 4,
            "at_length": {
                "ex_acc_err": {"value": 12.0, "low": 10.0, "high": 14.0},
                "R": {"value": 5.0, "low": 4.0, "high": 6.0},
            },
            **{name: curve(1.0 + i) for i, name in enumerate(("R", "L_eps", "eps", "ex_acc_err"))},
        },
        "calibration": {
            "of": "next-token probabilities",
            "binning": "5 bins of equal width",
            "ece": estimate(0.2),
            "bins": bins,
            "accuracy": 0.5,
            "brier": estimate(0.3),
        },
    }


def data() -> dict[str, dict[str, Any]]:
    """Data facts of a prepared run."""
    return {"train": {"sha256": "e" * 64, "rows": 100, "kept": 99}}


def manifest(config: dict[str, Any]) -> Manifest:
    """How the run is made again, with the paths of somebody's machine."""
    argv = ["kdbench", "run", "--method", config["method"]["name"], "--runs-dir", "/home/someone/r"]
    return Manifest(
        kdbench="0.1.0",
        git_commit="1" * 40,
        git_diff_sha256=None,
        argv=argv,
        config=json.loads(json.dumps(config)),
        versions={"torch": "2"},
        hardware={"device": "cpu"},
        data=data(),
        tokenizer_sha256="f" * 64,
        teacher=TEACHER,
        init=INIT,
        generation={},
        seeds={"training": 10},
        cost={},
    )
