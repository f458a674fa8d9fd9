"""Many stored answers, so many at a time, in as many threads as there are cores.

Most of the work is done in C without Python's lock. Each thread keeps its own scorer, and the same prompts
go to the same thread under every decoding seed, so that a reference is read once.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from kdbench.harness.files.batches import record_batches
from kdbench.harness.files.records import SampleRow, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.progress import Progress
from kdbench.tasks.scoring import About, Scored, TextScorer, grouped_rows
from kdbench.tasks.words import Numbered, Tokenizer, Vocabulary

BATCH = 1024
"""Answers that are scored together."""

_MOST_THREADS = 8
_WAITING = 2
"""Batches read ahead of each thread."""

Seen = Callable[[int, Sequence[SampleRow], Numbered], None]
"""Is told some answers of one decoding seed and their words, in the order they are stored."""

_Found = tuple[list[tuple[About, Scored]], Numbered]
T = TypeVar("T")


def sample_batches(evaluation: Evaluation, seed: int) -> Iterator[list[SampleRow]]:
    """Stored answers of one decoding seed, so many at a time; of a finished evaluation as drawn."""
    evaluation.generated.done()
    return record_batches(evaluation.samples_file(seed), SampleRow, BATCH)


def score_stored(
    evaluation: Evaluation,
    seeds: Sequence[int],
    tokenizer: Tokenizer,
    progress: Progress,
    seen: Seen,
) -> list[ScoreRow]:
    """Scores of all stored answers of an evaluation.

    Args:
        evaluation: answered, under every seed.
        seeds: its decoding seeds.
        tokenizer: what a word of ROUGE-L is.
        progress: told how many answers are scored.
        seen: told the answers, since they are read and their words numbered.
    """
    prompts = evaluation.generated.info().get("counts", {}).get("kept")
    total = prompts * len(seeds) if prompts else None
    scored: list[tuple[About, Scored]] = []
    vocabulary = Vocabulary()
    with (
        progress.stage(f"score {evaluation.key}", total, unit="answer") as stage,
        ExitStack() as stack,
    ):
        threads = [
            (
                stack.enter_context(ThreadPoolExecutor(1, "kdbench-score")),
                TextScorer(tokenizer, vocabulary),
            )
            for _ in range(cores())
        ]
        waiting: list[tuple[int, Sequence[SampleRow], Future[_Found]]] = []

        def collect() -> None:
            seed, rows, future = waiting.pop(0)
            found, words = future.result()
            scored.extend(found)
            seen(seed, rows, words)
            stage.update(len(scored))

        for seed in seeds:
            for place, rows in enumerate(sample_batches(evaluation, seed)):
                pool, scorer = threads[place % len(threads)]
                waiting.append((seed, rows, pool.submit(_scored, scorer, vocabulary, rows)))
                while len(waiting) > _WAITING * len(threads):
                    collect()
        while waiting:
            collect()
    return grouped_rows(scored)


def _scored(scorer: TextScorer, vocabulary: Vocabulary, rows: Sequence[SampleRow]) -> _Found:
    words = vocabulary.numbered([row.response for row in rows])
    scored = scorer(rows, words)
    return [(About.of(row), values) for row, values in zip(rows, scored, strict=True)], words


def in_threads(jobs: Sequence[Callable[[], T]], told: Callable[[int], None]) -> list[T]:
    """Runs jobs side by side and returns what they return, in their order; tells how many are done."""
    with ThreadPoolExecutor(cores(), "kdbench-describe") as pool:
        futures = [pool.submit(job) for job in jobs]
        found = []
        for future in futures:
            found.append(future.result())
            told(len(found))
    return found


@contextmanager
def no_cycles() -> Iterator[None]:
    """Without Python's search for cycles: many rows hold none, and it goes through them again and again."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def cores() -> int:
    """How many threads to use."""
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)
    return min(len(allowed), _MOST_THREADS)
