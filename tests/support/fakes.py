"""Whole run folders written by hand: what a finished run leaves, without training anything."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evaluations import SEEDS, write_evaluation

from kdbench.harness.files.records import (
    ModelRef,
    PrepareRecord,
    RunCard,
    SampleRow,
    ScoreRow,
    StageCost,
    Summary,
)
from kdbench.harness.files.run_folder import RunFolder

TEACHER = ModelRef(name="big", fingerprint="b" * 64, parameters=1_000_000)
INIT = ModelRef(name="small", fingerprint="1" * 64, parameters=100_000)


def make_run(
    runs: Path,
    method: str,
    seed: int | None = 1,
    *,
    level: float = 30.0,
    tasks: Sequence[str] = ("dolly",),
    edition: str = "mini",
    protocol: str = "strict",
    prompts: int = 40,
    evaluation: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    probes: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
    response: str = "the answer of {method}",
) -> Path:
    """A run folder with config, preparation, one evaluation a task, scores and samples.

    Args:
        runs: folder of run folders.
        method: method name; the label, for an evaluated model.
        seed: training seed; None: an evaluated model (kind eval).
        level: mean ROUGE-L.
        tasks, edition, protocol: what was evaluated.
        prompts: number of prompts.
        evaluation: changes of the evaluation records, and of what scored them (``scorer``).
        card: changes of the run card.
        probes: probes of every evaluation.
        judge: the summary's ``judge`` section.
        response: text of every answer, ``{method}`` filled in.
    """
    number = len(list(runs.glob("*"))) if runs.exists() else 0
    folder = runs / f"{method}-small-{number:012x}"
    scores: dict[str, Any] = {}
    for task in tasks:
        fields = {"edition": edition, "protocol": protocol, "data_sha256": f"data of {task}"}
        fields |= evaluation or {}
        rows = score_rows(method, seed, level, prompts, fields.get("seeds", SEEDS))
        text = response.format(method=method)
        samples = {k: [_sample(row, k, text) for row in rows] for k in rows[0].seeds}
        made, found = write_evaluation(RunFolder(folder), task, rows, samples, **fields)
        scores[made.key] = found
    run_card = RunCard.model_validate(
        {
            "id": f"{number:012x}",
            "kind": "run" if seed is not None else "eval",
            "method": method,
            "suite": "fake",
            "regime": "matched",
            "teacher": TEACHER,
            "student": INIT,
            "training_seed": seed,
            "division": "closed" if seed is not None else "reference",
            "settings": f"of {method}" if seed is not None else "",
            **(card or {}),
        }
    )
    cost = {"train": StageCost(wall_s=1.0, tokens={"response": 320_100})}
    summary = Summary(
        run=run_card,
        scores=scores,
        cost=cost if seed is not None else {},
        probes={key: dict(probes or {}) for key in scores},
        judge=dict(judge or {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "summary.json", summary.model_dump(mode="json"))
    write(folder / "config.json", config_of(run_card))
    if seed is not None:
        write(folder / "prepare.json", prepared(tasks, prompts).model_dump(mode="json"))
    return folder


def config_of(card: RunCard) -> dict[str, Any]:
    """The part of a configuration that reports read."""
    return {
        "suite": card.suite,
        "regime": card.regime,
        "pair": {"teacher": "big", "student": "small", "template": "mini"},
        "data": {"train": "mini", "dev": "mini", "text": "mini"},
        "method": {"name": card.method, "options": {}},
        "train": {
            "steps": None,
            "epochs": None,
            "response_tokens": 320_000,
            "select": "max:dev_rouge_l",
            "seed": card.training_seed,
        },
        "tuning": {"trials": 3, "note": ""},
    }


def prepared(tasks: Sequence[str], prompts: int) -> PrepareRecord:
    """prepare.json of a run whose tests are not in its training set."""
    overlaps = {"train&dev": 0, "train duplicates": 0}
    for task in tasks:
        overlaps |= {f"train&{task}": 0, f"dev&{task}": 0, f"train~{task}": 1, f"{task} rows": 200}
    return PrepareRecord(
        data={name: {"sha256": f"{name} rows", "rows": 100} for name in ("train", "dev", "text")},
        overlaps=overlaps,
        teacher=TEACHER,
        init=INIT,
    )


def score_rows(
    method: str, seed: int | None, level: float, prompts: int, seeds: Sequence[int]
) -> list[ScoreRow]:
    """Scores whose prompts are equally hard for all methods, with a little noise of their own."""
    rng = np.random.default_rng([seed or 0, *method.encode()])
    hard = np.random.default_rng(7).normal(0, min(10, level / 5), prompts)
    hard -= hard.mean()
    rows = []
    for i in range(prompts):
        rouge = (level + hard[i] + rng.normal(0, 2, len(seeds))).clip(0, 100)
        rows.append(
            ScoreRow(
                doc_id=i,
                prompt_hash=f"{i:016x}",
                reference_tokens=3 + 10 * (i % 3),
                seeds=list(seeds),
                metrics={
                    "rouge_l": rouge.tolist(),
                    "exact_match": [100.0 * (level > 40)] * len(seeds),
                    "response_tokens": [9.0] * len(seeds),
                },
            )
        )
    return rows


def edit(path: Path, change: Mapping[str, Any]) -> None:
    """Sets values of a JSON file by dotted key."""
    tree = json.loads(path.read_text())
    tree.pop("digest", None)  # written by hand from here on
    for dotted, value in change.items():
        *above, last = dotted.split(".")
        place = tree
        for key in above:
            place = place[key]
        place[last] = value
    write(path, tree)


def write(path: Path, value: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value))


def _sample(row: ScoreRow, seed: int, response: str) -> SampleRow:
    return SampleRow(
        doc_id=row.doc_id,
        prompt_hash=row.prompt_hash,
        seed=seed,
        prompt=f"question {row.doc_id}",
        references=[f"reference {row.doc_id}"],
        response=response,
        response_tokens=4,
        finished=True,
        reference_tokens=row.reference_tokens,
    )
