"""Which questions a run's stored answers ask of a judge, and the key of each."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import EvaluationRecord, SampleRow
from kdbench.harness.files.store import is_done, read_record, read_records
from kdbench.harness.judge.definition import JudgeDefinition
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


class Evaluation(NamedTuple):
    """One evaluation of one run."""

    run: Path
    folder: Path
    record: EvaluationRecord
    seeds: list[int]
    answers: list[Answers]

    @property
    def key(self) -> str:
        """``<task>@<hash8>``."""
        return self.folder.name


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
    text = json.dumps([*question, order, repetition], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_evaluation(
    run: Path, folder: Path, *, limit: int | None, most_seeds: int | None
) -> Evaluation | None:
    """The stored answers of an evaluation; None if it is not finished or has no texts.

    Args:
        run: run folder.
        folder: ``<run>/eval/<task>@<hash8>``.
        limit: first N prompts.
        most_seeds: first N decoding seeds.

    Raises:
        InputError: a sample file is missing or malformed, or a prompt has no reference.
    """
    if not is_done(folder, "generate") or not any(folder.glob("samples.seed*.jsonl")):
        return None
    record = read_record(folder / "evaluation.json", EvaluationRecord)
    seeds = record.seeds[:most_seeds]
    found: dict[tuple[int, str], Answers] = {}
    for seed in seeds:
        rows = read_records(folder / f"samples.seed{seed}.jsonl", SampleRow)
        for row in rows:
            if not row.references:
                raise InputError(f"{folder} has no reference to prompt {row.doc_id} to judge by")
            place = (row.doc_id, row.prompt_hash)
            answers = Answers(*place, row.prompt, row.references[0], {})
            found.setdefault(place, answers).responses[seed] = row.response
    ordered = [found[place] for place in sorted(found)][:limit]
    broken = [a.doc_id for a in ordered if len(a.responses) != len(seeds)]
    if broken or not ordered:
        raise InputError(f"{folder} lacks answers of some decoding seeds; finish it: kdbench eval")
    return Evaluation(run, folder, record, list(seeds), ordered)


class Asker(NamedTuple):
    """Renders questions of one judge."""

    judge: JudgeDefinition
    base_url: str

    def score(
        self, about: Answers, text: str, subject: Subject, seed: int | None
    ) -> Iterator[Call]:
        """Pointwise: one answer graded alone; a self-comparison is one repetition more."""
        messages = self._messages({"prompt": about.prompt, "answer": text})
        first = self.judge.repetitions if subject == "self" else 0
        for repetition in range(first, first + self.judge.repetitions):
            yield self._call(about, messages, subject, "", repetition, seed)

    def compare(
        self, about: Answers, text: str, other: str, subject: Subject, seed: int | None
    ) -> Iterator[Call]:
        """Pairwise: the subject's text with another, in every order of the judge."""
        for order in self.judge.orders:
            first, second = (text, other) if order == "AB" else (other, text)
            messages = self._messages(
                {"prompt": about.prompt, "answer_a": first, "answer_b": second}
            )
            for repetition in range(self.judge.repetitions):
                yield self._call(about, messages, subject, order, repetition, seed)

    def _messages(self, texts: dict[str, str]) -> Messages:
        user = ("user", filled(self.judge.user, texts))
        return (("system", self.judge.system), user) if self.judge.system else (user,)

    def _call(
        self,
        about: Answers,
        messages: Messages,
        subject: Subject,
        order: Order,
        repetition: int,
        seed: int | None,
    ) -> Call:
        key = call_key(self.judge, self.base_url, messages, order, repetition)
        place = (about.doc_id, about.prompt_hash, seed)
        return Call(key, messages, subject, order, repetition, *place)


def evaluation_calls(
    judge: JudgeDefinition, base_url: str, evaluation: Evaluation, other: Evaluation | None
) -> list[Call]:
    """All questions about one evaluation, sanity-floor rows last.

    Args:
        judge: who is asked.
        base_url: where.
        evaluation: the answers judged.
        other: pairwise: answers of another run to the same prompts; None: the references.

    Raises:
        InputError: the other run did not answer these prompts with these seeds.
    """
    asker = Asker(judge, base_url)
    opponents = _opponents(evaluation, other)
    calls: list[Call] = []
    for about, opponent in zip(evaluation.answers, opponents, strict=True):
        if judge.mode == "pointwise":
            calls += asker.score(about, about.reference, "reference", None)
        for seed in evaluation.seeds:
            text = about.responses[seed]
            if judge.mode == "pointwise":
                calls += asker.score(about, text, "model", seed)
            else:
                calls += asker.compare(about, text, opponent[seed], "model", seed)
    seed = evaluation.seeds[0]
    floor = zip(evaluation.answers, opponents, strict=True)
    for about, opponent in list(floor)[: judge.sanity_prompts]:
        text, rival = about.responses[seed], opponent[seed]
        if judge.mode == "pointwise":
            calls += asker.score(about, judge.null_answer, "null", None)
            calls += asker.score(about, about.reference, "copy", None)
            calls += asker.score(about, text, "self", seed)
        else:
            calls += asker.compare(about, judge.null_answer, rival, "null", None)
            calls += asker.compare(about, rival, rival, "copy", None)
            calls += asker.compare(about, text, text, "self", seed)
    return calls


def _opponents(evaluation: Evaluation, other: Evaluation | None) -> Sequence[dict[int, str]]:
    if other is None:
        return [dict.fromkeys(evaluation.seeds, a.reference) for a in evaluation.answers]
    theirs = {(a.doc_id, a.prompt_hash): a.responses for a in other.answers}
    found = [theirs.get((a.doc_id, a.prompt_hash)) for a in evaluation.answers]
    if any(f is None or not set(evaluation.seeds) <= f.keys() for f in found):
        raise InputError(
            f"{other.run} has no answers to all prompts of {evaluation.folder}; judge with "
            "--limit, or finish its evaluation"
        )
    return [f for f in found if f is not None]


def request_body(messages: Messages) -> list[dict[str, Any]]:
    """Messages as the endpoint wants them."""
    return [{"role": role, "content": content} for role, content in messages]


def most_prompt_tokens(messages: Messages) -> int:
    """Upper bound of a prompt's tokens: no byte makes more than one; and the chat's own marks."""
    return sum(len(content.encode()) + 16 for _, content in messages) + 16


def likely_prompt_tokens(messages: Messages) -> int:
    """About how many tokens a prompt has: four bytes each."""
    return sum(len(content.encode()) // 4 + 6 for _, content in messages) + 6
