"""One evaluation of a run folder written by hand: its record, scores and samples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdbench.harness.evaluation.estimates import evaluation_scores
from kdbench.harness.files.records import (
    EvaluationRecord,
    EvaluationScores,
    SampleRow,
    ScoreRow,
)
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.files.store import write_text
from kdbench.harness.identity import column_id, evaluation_key

SEEDS = [10, 20]
DECODING = {"max_new_tokens": 128}
RECORD: Mapping[str, Any] = {
    "edition": "mini",
    "protocol": "strict",
    "template": "mini",
    "model": "m" * 64,
    "tokenizer": "t" * 64,
    "data_sha256": "d" * 64,
    "decoding": DECODING,
    "dtype": "float32",
    "batch_size": 8,
    "chunk": 64,
    "seeds": SEEDS,
}


def lines(rows: Iterable[SampleRow | ScoreRow]) -> str:
    """Rows as a JSONL file."""
    return "".join(f"{row.model_dump_json()}\n" for row in rows)


def write_evaluation(
    run: RunFolder,
    task: str,
    rows: Sequence[ScoreRow],
    samples: Mapping[int, Sequence[SampleRow]] | None = None,
    *,
    scorer: str = "1",
    **record: Any,
) -> tuple[Evaluation, EvaluationScores]:
    """Writes an evaluation; returns it and what a summary says of it.

    Args:
        run: whose evaluation it is.
        task: its task.
        rows: scores by prompt.
        samples: stored answers by decoding seed.
        scorer: what scored it.
        record: fields of the record that differ from ``RECORD``.
    """
    made = EvaluationRecord.model_validate({**RECORD, "task": task, **record})
    evaluation = run.evaluation(evaluation_key(made))
    evaluation.record.write(made)
    write_text(evaluation.scores_file, lines(rows))
    for seed, answers in (samples or {}).items():
        write_text(evaluation.samples_file(seed), lines(answers))
    scores = EvaluationScores(
        task=task,
        edition=made.edition,
        protocol=made.protocol,
        template=made.template,
        metrics=evaluation_scores(rows),
        sampled=made.decoding is not None,
        column=column_id(made, scorer),
        scorer=scorer,
    )
    return evaluation, scores
