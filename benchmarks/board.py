"""Times a leaderboard of many synthetic runs: 1,000 runs x 5 tasks by default.

    python benchmarks/board.py [--runs 1000] [--prompts 200] [--seeds 3] [--profile] [--json]

The run folders are made in a temporary folder first (not timed). Reported: from summaries to
Markdown with nothing remembered, the same again with the paired tests remembered, and the HTML page
with its cards and samples.
"""

import argparse
import cProfile
import json
import os
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from kdbench.harness.files.records import (
    DecodingRecord,
    Estimate,
    EvaluationRecord,
    EvaluationScores,
    Manifest,
    ModelRef,
    RunCard,
    Summary,
)
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.identity import column_id, evaluation_key
from kdbench.reports.board import leaderboard

TASKS = ("dolly", "selfinst", "vicuna", "sni", "unni")
SEEDS = [10, 20, 30, 40, 50]


def make_scores(
    rng: np.random.Generator, prompts: int, level: float
) -> tuple[str, dict[str, Estimate]]:
    """scores.jsonl and estimates of one evaluation; prompts are equally hard for all runs."""
    difficulty = np.random.default_rng(0).normal(0, 15, prompts)
    rouge = np.clip(level + difficulty[:, None] + rng.normal(0, 8, (prompts, 5)), 0, 100).round(4)
    tables = {"rouge_l": rouge, "exact_match": 100.0 * (rouge > 60)}
    lines = []
    for i in range(prompts):
        row = {
            "doc_id": i,
            "prompt_hash": f"{i:016x}",
            "category": "open_qa",
            "reference_tokens": 20,
            "seeds": SEEDS,
            "metrics": {name: table[i].tolist() for name, table in tables.items()},
        }
        lines.append(json.dumps(row) + "\n")
    estimates = {}
    for name, table in tables.items():
        mean = float(table.mean())
        half = 1.96 * float(table.mean(axis=1).std()) / prompts**0.5
        estimates[name] = Estimate(
            mean=mean,
            low=mean - half,
            high=mean + half,
            n_prompts=prompts,
            seeds=SEEDS,
            per_seed=table.mean(axis=0).tolist(),
        )
    return "".join(lines), estimates


def make_answers(folder: Path, prompts: int) -> list[Path]:
    """A few files of answers that all runs share; their texts cost a board no more than others."""
    made = []
    for variant in range(8):
        lines = [
            json.dumps(
                {
                    "doc_id": i,
                    "prompt_hash": f"{i:016x}",
                    "seed": SEEDS[0],
                    "prompt": f"Instruction {i}: " + "say what you know of it. " * 8,
                    "references": [f"reference {i} " + "in some ten words or more. " * 4],
                    "category": ("open_qa", "closed_qa", "summarization")[i % 3],
                    "response": f"answer {variant}.{i} " + "that goes on for a while. " * 12,
                    "response_tokens": 60,
                    "finished": True,
                    "reference_tokens": 20,
                }
            )
            + "\n"
            for i in range(prompts)
        ]
        made.append(folder / f"answers{variant}.jsonl")
        made[-1].write_text("".join(lines))
    return made


def make_manifest(method: str, seed: int, model: ModelRef) -> Manifest:
    """A manifest with a configuration of the usual size."""
    sections = ("pair", "data", "train", "init_sft", "generate", "tasks")
    return Manifest(
        kdbench="0",
        git_commit="c" * 40,
        git_diff_sha256=None,
        argv=["kdbench", "run", "--method", method, "--seed", str(seed)],
        config={name: {f"setting_{i}": i * 0.1 for i in range(15)} for name in sections},
        versions={"torch": "2"},
        hardware={"cores": 2},
        data={"train": {"sha256": "0" * 64, "rows": 12_000}},
        tokenizer_sha256="0" * 64,
        teacher=model,
        init=model,
        generation={},
        seeds={},
        cost={},
    )


def make_run(
    folder: Path, method: str, seed: int, *, prompts: int, level: float, answers: Sequence[Path]
) -> None:
    """Writes what a board and its page read of a finished run."""
    run = RunFolder(folder)
    model = ModelRef(name="teacher", fingerprint="t" * 16, parameters=10**6)
    student = ModelRef(name="student", fingerprint=f"{method}{seed}", parameters=10**5)
    rng = np.random.default_rng([seed, *method.encode()])
    level += float(rng.normal(0, 0.5))
    scores = {}
    for task in TASKS:
        text, estimates = make_scores(rng, prompts, level)
        record = EvaluationRecord(
            task=task,
            edition="mini",
            protocol="strict",
            template="mini",
            model=method,
            tokenizer="0" * 64,
            data_sha256="0" * 64,
            decoding=DecodingRecord(max_new_tokens=128),
            dtype="float32",
            batch_size=32,
            chunk=64,
            seeds=SEEDS,
        )
        key = evaluation_key(record)
        scores[key] = EvaluationScores(
            task=task,
            edition="mini",
            protocol="strict",
            metrics=estimates,
            column=column_id(record, "1"),
            scorer="1",
        )
        evaluation = run.evaluation(key)
        evaluation.path.mkdir(parents=True)
        evaluation.record.path.write_text(record.model_dump_json())
        evaluation.scores_file.write_text(text)
        whose = answers[(seed + len(method)) % len(answers)]
        os.link(whose, evaluation.samples_file(SEEDS[0]))
    card = RunCard(
        id=folder.name.rpartition("-")[2],
        kind="run",
        method=method,
        suite="mini",
        regime="matched",
        teacher=model,
        student=student,
        training_seed=seed,
        division="closed",
        settings=method,
    )
    run.summary.path.write_text(Summary(run=card, scores=scores).model_dump_json())
    run.manifest.path.write_text(make_manifest(method, seed, model).model_dump_json())
    run.config.path.write_text(json.dumps({"method": method, "training_seed": seed}))


class Timed(NamedTuple):
    """A board and what it cost."""

    wall_s: float
    cpu_s: float
    text: str


def timed(folder: Path, cache: Path, format: str, profile: bool) -> Timed:
    profiler = cProfile.Profile()
    start, used = time.perf_counter(), time.process_time()
    if profile:
        profiler.enable()
    text = leaderboard(folder, format, cache=cache)
    profiler.disable()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(25)
    return Timed(seconds, used, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds a method")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary) / "runs", Path(temporary) / "cache"
        answers = make_answers(Path(temporary), arguments.prompts)
        for index in range(arguments.runs):
            number, seed = divmod(index, arguments.seeds)
            name = f"m{number:04d}"
            make_run(
                folder / f"{name}-student-{index:012x}",
                name,
                seed,
                prompts=arguments.prompts,
                level=20 + 10 * number * arguments.seeds / arguments.runs,
                answers=answers,
            )
        cold = timed(folder, cache, "md", arguments.profile)
        warm = timed(folder, cache, "md", False)
        html = timed(folder, cache, "html", False)
    if cold.text != warm.text:
        raise SystemExit("two boards of the same runs differ")
    ours = {
        "runs": arguments.runs,
        "tasks": len(TASKS),
        "seconds": round(cold.wall_s, 2),
        "cpu_seconds": round(cold.cpu_s, 2),
        "seconds_again": round(warm.wall_s, 2),
        "seconds_html": round(html.wall_s, 2),
        "cpu_seconds_html": round(html.cpu_s, 2),
        "html_mb": round(len(html.text.encode()) / 1e6, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps({"ours": ours}) if arguments.json else ours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
