"""ROUGE-L: our scorer against a plain loop over rouge_score, on texts cut from real answers.

    python benchmarks/scorer.py --data-dir DATA [--pairs 10000] [--peer-pairs 10000] [--json]

Both score the same pairs, each in a fresh process (cold caches) on one core, one after the other;
the values must be equal to 1e-12. With ``--peer-pairs`` fewer than ``--pairs`` the peer scores only
the first so many, and rates are compared.
"""

import argparse
import json
import multiprocessing
import random
import resource
import time
from typing import Any

WORDS = 256
BATCH = 256


def make_pairs(data_dir: str | None, count: int) -> list[tuple[str, str]]:
    """Pairs of 256-word texts cut from Dolly's training answers, the same ones every time."""
    from kdbench.harness.data.sources import load_split

    words = [
        word
        for example in load_split("dolly", "train", data_dir)
        for word in example.references[0].split()
    ]
    dice = random.Random(0)

    def cut() -> str:
        start = dice.randrange(len(words) - WORDS)
        return " ".join(words[start : start + WORDS])

    return [(cut(), cut()) for _ in range(count)]


def measure(side: str, data_dir: str | None, count: int, queue: Any) -> None:
    """Scores in this process and reports seconds, pairs a second, peak memory and values."""
    pairs = make_pairs(data_dir, count)
    if side == "ours":
        from kdbench.tasks.scoring import TextScorer

        begin, begin_cpu = time.perf_counter(), time.process_time()
        scorer, values = TextScorer(), []
        for start in range(0, count, BATCH):
            some = pairs[start : start + BATCH]
            found = scorer.rouge_l([text for text, _ in some], [[text] for _, text in some])
            values += [float(value) / 100 for value in found]
    else:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        values = [
            scorer.score(reference, prediction)["rougeL"].fmeasure
            for prediction, reference in pairs
        ]
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report = {
        "pairs": count,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "pairs_per_second": count / cpu_seconds,  # of one core: both sides are single-threaded
        "peak_memory_mb": peak,
    }
    queue.put((report, values))


def in_turn(side: str, data_dir: str | None, count: int) -> tuple[dict[str, float], list[float]]:
    """Runs one side in a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(side, data_dir, count, queue))
    process.start()
    result: tuple[dict[str, float], list[float]] = queue.get()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="default: KDBENCH_DATA")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--peer-pairs", type=int)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    ours, our_values = in_turn("ours", options.data_dir, options.pairs)
    peer, peer_values = in_turn("peer", options.data_dir, options.peer_pairs or options.pairs)
    error = max(abs(a - b) for a, b in zip(our_values, peer_values, strict=False))
    if error > 1e-12:
        raise SystemExit(f"values differ by {error}")
    ratio = {
        "pairs_per_second": ours["pairs_per_second"] / peer["pairs_per_second"],
        "peak_memory": ours["peak_memory_mb"] / peer["peak_memory_mb"],
    }
    for name, report in {"ours": ours, "rouge_score": peer}.items():
        print(f"{name:12} {report['pairs_per_second']:10.1f} pairs/s {report['seconds']:8.2f} s")
    print(f"ratio {ratio['pairs_per_second']:.1f}, largest difference {error:g}")
    if options.json:
        print(json.dumps({"ours": ours, "peer": peer, "ratio": ratio, "max_difference": error}))


if __name__ == "__main__":
    main()
