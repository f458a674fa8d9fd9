"""Runs to be judged, and what a judge said of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdbench.harness.files.records import (
    DecodingRecord,
    EvaluationRecord,
    ModelRef,
    RunCard,
    SampleRow,
    Summary,
    VerdictRow,
)
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import append_rows, read_records, write_json

KEY = "sk-test-0123456789abcdefSECRET"


def make_run(
    folder: Path,
    *,
    prompts: int = 4,
    seeds: tuple[int, ...] = (10, 20),
    response: Callable[[int, int], str] = lambda doc, seed: f"answer {doc} of {seed}",
    task: str = "dolly",
    **fields: Any,
) -> Path:
    """A finished run folder with stored answers and nothing else."""
    out = folder / "eval" / f"{task}@0123abcd"
    record = EvaluationRecord(
        task=task,
        **fields,
        edition="mini-test:4",
        protocol="strict",
        template="mini",
        model="f" * 64,
        tokenizer="e" * 64,
        data_sha256="0" * 64,
        decoding=DecodingRecord(max_new_tokens=8),
        dtype="fp32",
        batch_size=8,
        chunk=4,
        seeds=list(seeds),
    )
    write_json(out / "evaluation.json", record)
    for seed in seeds:
        rows = [
            SampleRow(
                doc_id=doc,
                prompt_hash=f"{doc:016x}",
                seed=seed,
                prompt=f"question {doc}?",
                references=[f"the reference {doc}"],
                response=response(doc, seed),
                response_tokens=3,
                finished=True,
                reference_tokens=3,
            )
            for doc in range(prompts)
        ]
        append_rows(out / f"samples.seed{seed}.jsonl", rows)
    Stage(out, "generate").mark([f"samples.seed{seed}.jsonl" for seed in seeds])
    model = ModelRef(name="student", fingerprint="f" * 64, parameters=1)
    card = RunCard(
        id="0" * 12,
        kind="run",
        method="fkd",
        suite="mini-test",
        regime="matched",
        teacher=model,
        student=model,
        training_seed=10,
        division="closed",
    )
    write_json(folder / "summary.json", Summary(run=card))
    return folder


def verdicts(run: Path) -> list[VerdictRow]:
    (path,) = run.glob("eval/*/judge/*/verdicts.jsonl")
    return read_records(path, VerdictRow)
