"""``kdbench score`` on long answers, beside a plain loop over rouge_score.

    python benchmarks/score.py [--data-dir DATA] [--prompts 30000] [--seeds 5] [--words 500]
                               [--peer 500] [--folder DIR] [--json]

Makes a run folder of that many stored answers, cut from Dolly's training answers, and runs the verb on it in
a process of its own: reading, ROUGE-L, exact match, n-grams, length buckets, intervals, summary. The peer
reads the same answers and computes ROUGE-L only, one after the other, of the first ``--peer`` prompts under
every seed; its time is scaled up to all of them. Times are of cores, as on a machine that does other things
too; the verb's own includes its start. Their values must be equal to the last bit.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdbench.harness.files.records import (
    DecodingRecord,
    EvaluationRecord,
    ModelRef,
    RunCard,
    SampleRow,
    Summary,
)
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import append_rows, read_rows

BATCH = 1000


def texts(data_dir: str | None, words: int, dice: random.Random):  # type: ignore[no-untyped-def]
    """Gives texts of so many words, the same ones every time."""
    from kdbench.harness.data.sources import load_split

    known = [w for e in load_split("dolly", "train", data_dir) for w in e.references[0].split()]
    while True:
        start = dice.randrange(len(known) - words)
        yield " ".join(known[start : start + words])


def make_run(
    folder: Path, data_dir: str | None, prompts: int, seeds: list[int], words: int
) -> None:
    """A run folder with stored answers and nothing else."""
    run = RunFolder(folder)
    evaluation = run.evaluation("dolly@0123abcd")
    record = EvaluationRecord(
        task="dolly",
        edition="full",
        protocol="strict",
        template="alpaca",
        model="f" * 64,
        tokenizer="e" * 64,
        data_sha256="0" * 64,
        decoding=DecodingRecord(max_new_tokens=words),
        dtype="fp32",
        batch_size=8,
        chunk=4,
        seeds=seeds,
    )
    evaluation.record.write(record)
    source = texts(data_dir, words, random.Random(0))
    references = [next(source) for _ in range(prompts)]
    for seed in seeds:
        for start in range(0, prompts, BATCH):
            rows = [
                SampleRow(
                    doc_id=doc,
                    prompt_hash=f"{doc:016x}",
                    seed=seed,
                    prompt="Say it.",
                    references=[references[doc]],
                    response=next(source),
                    response_tokens=words,
                    finished=True,
                    reference_tokens=words,
                )
                for doc in range(start, min(start + BATCH, prompts))
            ]
            append_rows(evaluation.samples_file(seed), rows)
    counts = {"counts": {"kept": prompts}, "wall_s": 0.0, "sampled": 0, "peak_mb": 0.0}
    evaluation.generated.mark([evaluation.samples_file(seed) for seed in seeds], counts)
    model = ModelRef(name="student", fingerprint="f" * 64, parameters=1)
    run.summary.write(
        Summary(
            run=RunCard(
                id="0" * 12,
                kind="run",
                method="sft",
                suite="mini-test",
                regime="matched",
                teacher=model,
                student=model,
                training_seed=10,
                division="closed",
            )
        )
    )


def peer(folder: Path, prompts: int) -> tuple[float, dict[tuple[int, int], float]]:
    """Seconds of a core, and ROUGE-L in percent by prompt and seed."""
    from rouge_score.rouge_scorer import RougeScorer

    (evaluation,) = RunFolder(folder).evaluations()
    began, found = time.process_time(), {}
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for seed in evaluation.seeds():
        with open(evaluation.samples_file(seed)) as file:
            for _ in range(prompts):
                row = json.loads(file.readline())
                best = scorer.score_multi(row["references"], row["response"])["rougeL"].fmeasure
                found[row["doc_id"], seed] = 100 * best
    return time.process_time() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="default: KDBENCH_DATA")
    parser.add_argument("--prompts", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--words", type=int, default=500)
    parser.add_argument("--peer", type=int, default=200, help="prompts that the peer scores")
    parser.add_argument("--folder", type=Path, help="keep the run there, or take it from there")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "run"
        if not RunFolder(folder).summary.exists():
            seeds = [10 * (1 + n) for n in range(options.seeds)]
            make_run(folder, options.data_dir, options.prompts, seeds, options.words)
        program = "from kdbench.harness.cli import main; main()"
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program, "score", folder, "--quiet"], check=True)
        ours = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        (evaluation,) = RunFolder(folder).evaluations()
        rows = read_rows(evaluation.scores_file)
        answers = sum(len(row["seeds"]) for row in rows)
        seconds, expected = peer(folder, options.peer)
        scored = {row["doc_id"]: row for row in rows[: options.peer]}
        for (doc, seed), value in expected.items():
            mine = scored[doc]["metrics"]["rouge_l"][scored[doc]["seeds"].index(seed)]
            if mine != value:
                raise SystemExit(f"prompt {doc}, seed {seed}: {mine!r} here, {value!r} there")
    theirs = seconds * answers / len(expected)
    cpu = used.ru_utime + used.ru_stime
    print(
        f"kdbench score: {answers:,} answers of {options.words} words: {cpu:.1f} s of cores, ",
        end="",
    )
    print(f"{ours:.1f} s by the clock, {used.ru_maxrss / 1024:.0f} MB")
    print(f"rouge_score: {len(expected):,} in {seconds:.1f} s, so all in {theirs:.1f} s")
    print(f"ratio {theirs / cpu:.1f}; values equal")
    if options.json:
        print(json.dumps({"answers": answers, "ours_s": ours, "cpu_s": cpu, "peer_s": theirs}))


if __name__ == "__main__":
    main()
