"""How alike a model's answers are to each other."""

from collections import defaultdict

from kdbench.harness.files.records import Missing
from kdbench.harness.probes.subject import Report, Subject
from kdbench.harness.questions import PreparedTask
from kdbench.tasks.text_stats import self_bleu
from kdbench.tasks.translation import bleu_words

ANSWERS = 100
WORDS = "13a"
"""Sacrebleu's tokenizer for scripts that part words by spaces; of others it is the references' own."""


def settings(subject: Subject, prompts: PreparedTask) -> Report | None:
    """See `kdbench.harness.probes.subject.Probe`."""
    words = bleu_words([text for doc in prompts.docs for text in doc.references])
    return {} if words == WORDS else {"words": words}


def measure(subject: Subject, prompts: PreparedTask, settings: Report) -> Report:
    """Self-BLEU of the first answers of each seed, averaged over seeds."""
    answers: dict[int, list[str]] = defaultdict(list)
    for row in subject.evaluation.samples():
        answers[row.seed].append(row.response)
    words = settings.get("words", WORDS)
    found = [self_bleu(answers[seed][:ANSWERS], words) for seed in sorted(answers)]
    values = [value for value in found if value is not None]
    if not values:
        return Missing(missing="self-BLEU needs at least two answers to one seed").model_dump()
    return {
        "mean": sum(values) / len(values),
        "per_seed": values,
        "signature": f"sacrebleu sentence BLEU-4, {words}, exp; first {ANSWERS} answers a seed, each "
        "against all others",
    }
