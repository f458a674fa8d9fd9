"""From stored samples to per-prompt scores, and from those to what a summary says. No model."""

from kdbench.harness import metrics
from kdbench.harness.evaluation import corpus
from kdbench.harness.evaluation.estimates import evaluation_scores
from kdbench.harness.evaluation.many import score_stored
from kdbench.harness.evaluation.names import include_folders
from kdbench.harness.evaluation.texts import Told
from kdbench.harness.files.records import EvaluationRecord, EvaluationScores, ScoreRow
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.files.store import Say, content_hash
from kdbench.harness.identity import column_id
from kdbench.harness.progress import Progress
from kdbench.tasks.scoring import scorer_of
from kdbench.tasks.words import Tokenizer


def scored_as(
    record: EvaluationRecord, tokenizer: Tokenizer = "rouge", task_files: str | None = None
) -> str:
    """What would score samples of this evaluation now; stored scores of another are made again.

    ``task_files`` as of `score`: the folder that the command line names.
    """
    if record.source == "lm-eval":
        from kdbench.harness.lm.version import scored_by

        return scored_by(record.task, include_folders(task_files))
    more = corpus.scored_by() if source_of(record) == "file" else ""
    return scorer_of(tokenizer) + more + metrics.versions_of_others()


def source_of(record: EvaluationRecord) -> str:
    """Whose prompts they are: of answers of another system, those that they stand beside."""
    if record.source != "outside":
        return record.source
    return "file" if record.beside is None else str(record.beside.get("source", "kdbench"))


def score(
    evaluation: Evaluation,
    task_files: str | None = None,
    tokenizer: Tokenizer = "rouge",
    progress: Progress | None = None,
) -> dict[int, Told]:
    """Per-prompt scores of stored samples: text in, numbers out.

    Args:
        evaluation: answered, under every seed.
        task_files: the folder of lm-eval task files that the command line names. They run code, so
            that which the evaluation's record names is never read.
        tokenizer: what a word of ROUGE-L is; kept in the scorer's name.
        progress: told how far it is.

    Returns:
        By decoding seed, what was told of the answers on the way, for `describe`; maybe nothing.
    """
    record = evaluation.record.read()
    told: dict[int, Told] = {}
    if record.source == "lm-eval":
        from kdbench.harness.evaluation.stock import score_samples

        rows = [row for seed in record.seeds for row in evaluation.samples(seed)]
        scored, info = score_samples(record, evaluation, rows, task_files)
    else:
        added = metrics.others().items()
        cards = {name: metrics.card_of(each).model_dump(mode="json") for name, each in added}
        info = {"rouge_tokenizer": tokenizer} | ({"cards": cards} if cards else {})
        told = {seed: Told(seed == min(record.seeds)) for seed in record.seeds}
        scored = score_stored(
            evaluation,
            record.seeds,
            tokenizer,
            progress or Progress(quiet=True),
            lambda seed, rows, words: told[seed].add(rows, words),
        )
        if source_of(record) == "file":
            scored, more = corpus.with_corpus_metrics(evaluation, record.seeds, scored)
            info |= more
        if record.source == "outside":
            scored = list(map(_of_outside, scored))
    evaluation.keep_scores(scored, info | {"scorer": scored_as(record, tokenizer, task_files)})
    return told


UNTOLD = {
    "response_tokens": "another system's answers: their tokens are not known",
    "cut": "another system's answers: why they end is not known",
}
"""What answers that were not made here do not say."""


def _of_outside(row: ScoreRow) -> ScoreRow:
    kept = {name: values for name, values in row.metrics.items() if name not in UNTOLD}
    return row.model_copy(update={"metrics": kept, "missing": row.missing | UNTOLD})


def described(evaluation: Evaluation, heal: Say) -> bool:
    """Whether `describe` has seen the scores that are there; damage is told, and forgotten."""
    seen, scored = evaluation.probe("text"), evaluation.scored.info()
    return seen.done(heal) and seen.info().get("scorer") == scored.get("scorer")


def summarised(run: RunFolder) -> dict[str, EvaluationScores]:
    """Scores of every finished evaluation of a run, by key."""
    return {
        evaluation.key: evaluation_summary(evaluation)
        for evaluation in run.evaluations()
        if evaluation.scored.done()
    }


def protocol_of_answers(record: EvaluationRecord) -> str:
    """The protocol as tables name it: greedy answers to prompts of ours are a column of their own."""
    drawn = record.decoding if record.source != "lm-eval" else None
    greedy = drawn is not None and not drawn.temperature
    return f"{record.protocol}-greedy" if greedy else record.protocol


def evaluation_summary(evaluation: Evaluation) -> EvaluationScores:
    """What a summary says of one scored evaluation."""
    record, scored = evaluation.record.read(), evaluation.scored.info()
    counts = {**evaluation.generated.info(), **scored}.get("counts", {})
    return EvaluationScores(
        task=record.task,
        edition=record.edition,
        protocol=protocol_of_answers(record),
        template=record.template,
        metrics=scored.get("whole", {}) | evaluation_scores(evaluation.scores()),
        cards=scored.get("cards", {}),
        prompts_dropped=counts.get("dropped", 0),
        prompts_cut=counts.get("prompts_cut", 0),
        sampled=record.decoding is not None or record.source == "outside",
        column=column_id(record, scored["scorer"]),
        scorer=scored["scorer"],
        scores_sha256=content_hash(evaluation.scores_file),
    )
