"""How alike a model's answers are to each other."""

from collections import defaultdict

from kdbench.harness.files.records import Missing
from kdbench.harness.probes.subject import Report, Subject
from kdbench.harness.questions import PreparedTask
from kdbench.tasks.text_stats import self_bleu

ANSWERS = 100


def settings(subject: Subject, prompts: PreparedTask) -> Report | None:
    """See `kdbench.harness.probes.subject.Probe`."""
    return {}


def measure(subject: Subject, prompts: PreparedTask, settings: Report) -> Report:
    """Self-BLEU of the first answers of each seed, averaged over seeds."""
    answers: dict[int, list[str]] = defaultdict(list)
    for row in subject.evaluation.samples():
        answers[row.seed].append(row.response)
    found = [self_bleu(answers[seed][:ANSWERS]) for seed in sorted(answers)]
    values = [value for value in found if value is not None]
    if not values:
        return Missing(missing="self-BLEU needs at least two answers to one seed").model_dump()
    return {
        "mean": sum(values) / len(values),
        "per_seed": values,
        "signature": f"sacrebleu sentence BLEU-4, 13a, exp; first {ANSWERS} answers a seed, each "
        "against all others",
    }
