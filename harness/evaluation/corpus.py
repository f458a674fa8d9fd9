"""chrF and BLEU of a user's task: of all answers together, and of each prompt for pairs."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from kdbench.harness.files.records import Estimate, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.metrics import clamp
from kdbench.harness.stats import DECIMALS
from kdbench.tasks.translation import NAMES, Corpus

EACH = "_prompt"
"""What the metric of one prompt is called after that of all together."""


def scored_by() -> str:
    """What tells these scores from those of another version."""
    return f" +sacrebleu {version('sacrebleu')} (BLEU, chrF2)"


def with_corpus_metrics(
    evaluation: Evaluation, seeds: Sequence[int], rows: Sequence[ScoreRow]
) -> tuple[list[ScoreRow], dict[str, Any]]:
    """Score rows with the values of each answer, and what the marker of the scores says of all.

    Args:
        evaluation: answered under every seed.
        seeds: its decoding seeds.
        rows: its scores so far, one a prompt.
    """
    if not rows:
        return list(rows), {}
    order = {row.doc_id: place for place, row in enumerate(rows)}
    answers: list[list[str]] = []
    references: list[Sequence[str]] = [()] * len(rows)
    for seed in seeds:
        texts = [""] * len(rows)
        for sample in evaluation.samples(seed):
            texts[order[sample.doc_id]] = sample.response
            references[order[sample.doc_id]] = sample.references
        answers.append(texts)
    corpus = Corpus(references)
    whole: dict[str, Any] = {}
    more: dict[str, list[list[float]]] = {}
    for name in NAMES:
        counts = [corpus.statistics(name, texts) for texts in answers]
        mean, low, high = corpus.interval(name, counts)
        whole[name] = Estimate(
            mean=mean,
            low=round(clamp(name, low), DECIMALS),
            high=round(clamp(name, high), DECIMALS),
            n_prompts=len(rows),
            seeds=list(seeds),
            per_seed=[corpus.whole(name, each) for each in counts],
        ).model_dump()
        more[name + EACH] = [corpus.each(name, each) for each in counts]
    made = []
    for place, row in enumerate(rows):
        mine = {name: [seed[place] for seed in values] for name, values in more.items()}
        made.append(row.model_copy(update={"metrics": row.metrics | mine}))
    return made, {"whole": whole, "bleu_words": corpus.words}
