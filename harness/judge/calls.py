"""Which questions stored answers ask of a judge, and the key of each."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import EvaluationRecord
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.identity import digest
from kdbench.harness.judge.definition import REFERENCE, JudgeDefinition
from kdbench.harness.judge.fencing import filled

Subject = Literal["model", "reference", "null", "copy", "self"]
Order = Literal["", "AB", "BA"]
Messages = tuple[tuple[str, str], ...]


class Call(NamedTuple):
    """One question. Calls with equal keys are one question, asked once."""

    key: str
    messages: Messages
    """(role, content) pairs."""
    subject: Subject
    order: Order
    repetition: int
    doc_id: int
    prompt_hash: str
    seed: int | None


class Answers(NamedTuple):
    """The stored answers of one evaluation to one prompt, one a decoding seed."""

    doc_id: int
    prompt_hash: str
    prompt: str
    reference: str
    responses: dict[int, str]

    @property
    def place(self) -> tuple[int, str]:
        """Which prompt."""
        return self.doc_id, self.prompt_hash


class Answered(NamedTuple):
    """One evaluation and those of its stored answers that are judged."""

    run: RunFolder
    evaluation: Evaluation
    record: EvaluationRecord
    seeds: list[int]
    answers: list[Answers]


def stored_answers(
    run: RunFolder, evaluation: Evaluation, *, limit: int | None, most_seeds: int | None
) -> Answered | None:
    """The stored answers of an evaluation, of whatever task; None if unfinished or without texts.

    Args:
        run: whose it is.
        evaluation: there or not.
        limit: first N prompts.
        most_seeds: first N decoding seeds.

    Raises:
        InputError: a sample file is missing or malformed, or a prompt has no reference.
    """
    record = evaluation.record.find()
    if record is None or not evaluation.generated.done():
        return None
    if record.decoding is None and record.source != "outside":
        return None
    seeds = record.seeds[:most_seeds]
    found: dict[tuple[int, str], Answers] = {}
    for seed in seeds:
        for row in evaluation.samples(seed):
            if not row.references:
                raise InputError(
                    f"{evaluation.path} has no reference to prompt {row.doc_id} to judge by"
                )
            new = Answers(row.doc_id, row.prompt_hash, row.prompt, row.references[0], {})
            found.setdefault(new.place, new).responses[seed] = row.response
    ordered = [found[place] for place in sorted(found)][:limit]
    if not ordered or any(len(answers.responses) != len(seeds) for answers in ordered):
        raise InputError(
            f"{evaluation.path} lacks answers of some decoding seeds; finish it: kdbench eval"
        )
    return Answered(run, evaluation, record, list(seeds), ordered)


def _asked(
    judge: JudgeDefinition,
    base_url: str,
    about: Answers,
    texts: Sequence[str],
    subject: Subject,
    seed: int | None,
) -> Iterator[Call]:
    """One text graded alone, or two compared in every order of the judge.

    A text compared with itself by its grade is graded by one round of repetitions more.
    """
    pair = len(texts) == 2
    names = ("answer_a", "answer_b") if pair else ("answer",)
    orders: Sequence[Order] = judge.orders if pair else ("",)
    first = judge.repetitions if subject == "self" and not pair else 0
    for order in orders:
        shown = zip(names, texts[::-1] if order == "BA" else texts, strict=True)
        material = {"prompt": about.prompt, REFERENCE: about.reference, **dict(shown)}
        user = ("user", filled(judge.user, {name: material[name] for name in judge.places}))
        messages: Messages = (("system", judge.system), user) if judge.system else (user,)
        for repetition in range(first, first + judge.repetitions):
            key = call_key(judge, base_url, messages, order, repetition)
            yield Call(key, messages, subject, order, repetition, *about.place, seed)


def call_key(
    judge: JudgeDefinition, base_url: str, messages: Messages, order: Order, repetition: int
) -> str:
    """What makes two questions one: 32 hex digits.

    In: judge model, base URL, hash of the prompt's wording, rendered messages, everything else the
    request says (sampling parameters, token limit, answer form), order and repetition. Out, because
    they do not change the question: run, task, decoding seed and subject (equal texts are asked
    once), prices, key, time-outs.
    """
    question = [judge.model, base_url, judge.prompt_hash, messages, judge.sampling()]
    return digest([*question, order, repetition])[:32]


def calls_about(
    judge: JudgeDefinition, base_url: str, answered: Answered, other: Answered | None
) -> list[Call]:
    """All questions about one evaluation, sanity-floor rows last.

    Args:
        judge: who is asked.
        base_url: where.
        answered: the answers judged.
        other: pairwise: answers of another run to the same prompts; None: the references.

    Raises:
        InputError: the other run did not answer these prompts with these seeds.
    """
    ask = partial(_asked, judge, base_url)
    shown = 2 if judge.mode == "pairwise" else 1
    rows = list(zip(answered.answers, _opponents(answered, other), strict=True))
    calls: list[Call] = []
    for about, rivals in rows:
        if shown == 1:
            calls += ask(about, [about.reference], "reference", None)
        for seed in answered.seeds:
            texts = [about.responses[seed], rivals[seed]]
            calls += ask(about, texts[:shown], "model", seed)
    seed = answered.seeds[0]
    for about, rivals in rows[: judge.sanity_prompts]:
        text, rival = about.responses[seed], rivals[seed]
        calls += ask(about, [judge.null_answer, rival][:shown], "null", None)
        if shown == 2:  # graded alone it is the reference, whose question is asked already
            calls += ask(about, [rival, rival], "copy", None)
        calls += ask(about, [text, text][:shown], "self", seed)
    return calls


def _opponents(answered: Answered, other: Answered | None) -> list[dict[int, str]]:
    """By prompt and decoding seed, what the answers are compared with."""
    if other is None:
        return [dict.fromkeys(answered.seeds, a.reference) for a in answered.answers]
    theirs = {a.place: a.responses for a in other.answers}
    found = [theirs.get(a.place, {}) for a in answered.answers]
    if any(not set(answered.seeds) <= responses.keys() for responses in found):
        raise InputError(
            f"{other.run.path} has no answers to all prompts of {answered.evaluation.path}; judge "
            "with --limit, or finish its evaluation"
        )
    return found
