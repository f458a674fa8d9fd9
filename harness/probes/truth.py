"""A student against the known truth of the mini world.

Both divergences are of whole answers, by the chain rule: contexts are sampled (from the truth for
D(true | student), from the student for D(student | true)), the divergence of the next token is
exact. Answers cut at the length limit count up to there. The truth's noise floor keeps both finite.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from kdbench.harness.errors import InputError
from kdbench.harness.probes import sampling
from kdbench.harness.probes.subject import Report, Subject, mean_estimate
from kdbench.harness.questions import PreparedTask, PromptDoc
from kdbench.harness.text_model import TextModel
from kdbench.tasks import mini
from kdbench.tasks.mini import Truth
from kdbench.tasks.mini.words import split
from kdbench.trainers.engine import in_process
from kdbench.trainers.types import Answer, Decoding, Prompt
from kdbench.trainers.types import Sequence as Tokens

MODES = 64
COVERED = 0.1
"""A valid answer is covered if the student gives it at least this share of its true probability."""

METHOD = (
    "divergences in nats an answer: contexts sampled, next-token divergence exact; modes and valid "
    f"mass by exact likelihood where there are at most {MODES} valid answers (covered: at least "
    f"{COVERED:g} of the true probability); invalid share of sampled answers"
)


@dataclass(frozen=True, slots=True)
class TruthRow:
    """One prompt. ``modes_covered`` (percent) and ``valid_mass`` (percent) are None where the valid
    answers are too many to list; ``invalid`` is percent of the sampled answers.
    """

    category: str
    kl_true_student: float
    kl_student_true: float
    invalid: float
    modes_covered: float | None
    valid_mass: float | None


def settings(subject: Subject, prompts: PreparedTask) -> Report | None:
    """See `kdbench.harness.probes.subject.Probe`. Known is the truth of the generated world only."""
    if subject.load is None or _world(prompts) not in mini.SIZES:
        return None
    return dict(sampling("truth", subject.samples, prompts.protocol, subject.seed))


def measure(subject: Subject, prompts: PreparedTask, settings: Report) -> Report:
    """Mean of each metric over all prompts and over those of each category."""
    rows = against_truth(
        mini.truth_of(_world(prompts)),
        subject.model(),
        prompts.docs,
        decoding=subject.decoding(settings["seed"]),
        samples=settings["samples"],
    )
    groups = defaultdict(list)
    for row in rows:
        groups[row.category].append(row)
    return {
        "of": METHOD,
        "samples": settings["samples"],
        **_means(rows),
        "by_category": {name: _means(groups[name]) for name in sorted(groups)},
    }


def _world(prompts: PreparedTask) -> str:
    """The edition without its limit, which names a world if the prompts are of one."""
    return prompts.edition.partition(":")[0]


def _means(rows: Sequence[TruthRow]) -> Report:
    metrics = [field.name for field in fields(TruthRow) if field.name != "category"]
    return {name: mean_estimate([getattr(row, name) for row in rows]) for name in metrics}


def against_truth(
    truth: Truth,
    student: TextModel,
    docs: Sequence[PromptDoc],
    *,
    decoding: Decoding,
    samples: int,
) -> list[TruthRow]:
    """Every prompt's row, in order.

    Args:
        truth: of the world that the prompts are of.
        student: a model with its tokenizer.
        docs: prompts.
        decoding: for the student's answers; the truth answers with the same limit and seed.
        samples: answers a prompt from each side.

    Raises:
        InputError: the model has another tokenizer.
    """
    if student.tokenizer.get_vocab() != truth.ids:
        raise InputError(
            "the truth of the mini world is known in its own words only, but this model has "
            "another tokenizer; leave truth out of --probes"
        )
    prompts = [Prompt(doc.ids, doc.key, sample) for doc in docs for sample in range(samples)]
    (sampled,) = student.engine.answers(prompts, decoding, chunk=len(prompts))
    limit = decoding.max_new_tokens
    true = [
        Answer(tuple(truth.sample(doc.prompt, decoding.seed + sample, doc.key, limit)), True)
        for doc in docs
        for sample in range(samples)
    ]
    texts = [doc.prompt for doc in docs for _ in range(samples)]
    reverse = _divergences(student, truth, prompts, texts, sampled, forward=False)
    forward = _divergences(student, truth, prompts, texts, true, forward=True)
    modes = _modes(student, truth, docs)
    rows = []
    for i, doc in enumerate(docs):
        own = slice(i * samples, (i + 1) * samples)
        wrong = sum(not _valid(truth, doc.prompt, answer) for answer in sampled[own])
        covered, mass = modes[i]
        rows.append(
            TruthRow(
                category=doc.category or truth.category(doc.prompt),
                kl_true_student=math.fsum(forward[own]) / samples,
                kl_student_true=math.fsum(reverse[own]) / samples,
                invalid=100.0 * wrong / samples,
                modes_covered=covered,
                valid_mass=mass,
            )
        )
    return rows


def _valid(truth: Truth, prompt: str, answer: Answer) -> bool:
    return answer.finished and truth.is_valid(prompt, truth.decode(answer.ids))


def _divergences(
    student: TextModel,
    truth: Truth,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    answers: Sequence[Answer],
    *,
    forward: bool,
) -> list[float]:
    """Each answer's sum of next-token divergences, nats."""
    sequences = [Tokens(p.ids, a.ids) for p, a in zip(prompts, answers, strict=True)]
    totals = []
    student_TVs = _log_probs(student, sequences)
    for text, answer, student_TV in zip(texts, answers, student_TVs, strict=True):
        truth_TV = torch.from_numpy(truth.log_probs(text, answer.ids[:-1]))
        left, right = (truth_TV, student_TV) if forward else (student_TV, truth_TV)
        totals.append(float((left.exp() * (left - right)).sum()))
    return totals


def _log_probs(student: TextModel, sequences: Sequence[Tokens]) -> list[torch.Tensor]:
    """The student's next-token log-probabilities at every response token, (T, V) float64 each."""
    engine = in_process(student.engine, "the distance from the truth")
    parts = [tile_nV.double().log_softmax(-1).cpu() for tile_nV in engine.logit_tiles(sequences)]
    whole = torch.cat(parts) if parts else torch.zeros(0, engine.vocabulary.size)
    return list(whole.split([len(sequence.response) for sequence in sequences]))


def _modes(
    student: TextModel, truth: Truth, docs: Sequence[PromptDoc]
) -> list[tuple[float | None, float | None]]:
    """Percent of valid answers covered and of probability on valid answers, a prompt each."""
    listed = [truth.modes(doc.prompt, MODES) or {} for doc in docs]
    sequences = [
        Tokens(doc.ids, (*(truth.ids[word] for word in split(text)), truth.eos))
        for doc, modes in zip(docs, listed, strict=True)
        for text in modes
    ]
    each = zip(sequences, _log_probs(student, sequences), strict=True)
    found: list[tuple[float | None, float | None]] = []
    for modes in listed:
        mass, covered = 0.0, 0
        for true_probability in modes.values():
            sequence, rows_TV = next(each)
            target = torch.tensor(sequence.response)
            own = float(rows_TV.gather(-1, target[:, None]).sum().exp())
            mass += own
            covered += own >= COVERED * true_probability
        found.append((100.0 * covered / len(modes), 100.0 * mass) if modes else (None, None))
    return found
