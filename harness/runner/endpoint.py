"""A teacher behind an OpenAI-compatible endpoint: what it can be asked, and how its answers become tokens.

It has no weights and no tokenizer here, so only methods that learn from its answers alone can have it. The
asking is the judge's (`kdbench.harness.judge`): every answer is recorded as it came before it is used, a
request is reserved before it is sent, and what is recorded is not asked again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from kdbench.harness.config import RunConfig, TeacherEndpoint
from kdbench.harness.data.templates import asked_as, prompt_key, render
from kdbench.harness.data.tokens import encode
from kdbench.harness.endpoints import Asked, Place, Spoken, place_of
from kdbench.harness.errors import InputError
from kdbench.harness.files.locks import WAIT, RunLock
from kdbench.harness.files.records import ModelRef, VerdictRow
from kdbench.harness.files.run_folder import JudgeFolder
from kdbench.harness.files.store import make_folder
from kdbench.harness.identity import digest, identity
from kdbench.harness.judge.asking import Asking, Question, Stop
from kdbench.harness.judge.budget import Budget, settle_recorded
from kdbench.harness.judge.calls import Call, Messages
from kdbench.harness.judge.parsing import answer_of, read_answer, without_thinking
from kdbench.harness.judge.refusals import ALWAYS, REFUSALS, shown
from kdbench.harness.judge.verdict_log import VerdictLog
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.runner.rows import Rows
from kdbench.harness.session import Session
from kdbench.trainers.method import Method
from kdbench.trainers.models import PRUNE
from kdbench.trainers.types import Answer, Prompt

FEWEST = 8
"""Answers after which it can be told that most say nothing."""


class TeacherAsked(Asked):
    """The teacher of a run as its endpoint is asked."""

    SPOKEN = Spoken(
        "teacher",
        "endpoint.key_env",
        "pair.teacher (https://host/v1#model)",
        "pair.teacher",
        "endpoint.max_cost",
        "endpoint.",
    )

    def sampling(self) -> dict[str, Any]:
        """See `Asked`; what is null is left to the endpoint."""
        return {name: value for name, value in super().sampling().items() if value is not None}


# -- what it is, and what it cannot do ------------------------------------------------------------


def card_of(place: Place, endpoint: TeacherEndpoint) -> ModelRef:
    """The teacher by name and by what decides its answers, as far as can be told from here."""
    return ModelRef(
        name=place.model,
        fingerprint=digest([place.base_url, place.model, endpoint.parameters]),
        parameters=0,
    )


def ledger_id(place: Place, prompts: str) -> str:
    """Name of the ledger of what a teacher was asked about some rows.

    What decides an answer is in the key of each question; a batch size or a precision of ours does not, and
    what was paid for once is not asked again because of them.
    """
    return identity({"endpoint": place.base_url, "model": place.model, "prompts": prompts})


def refuse_unfit(config: RunConfig, method: Method) -> None:
    """Refuses what a teacher behind an endpoint cannot do, before anything is loaded or asked.

    Raises:
        InputError: says which setting asks for its weights.
    """
    place = place_of(config.pair.teacher)
    if place is None:
        if config.endpoint != TeacherEndpoint():
            raise InputError(
                f"endpoint is for a teacher behind an endpoint, but pair.teacher is "
                f"{config.pair.teacher}; give it as https://host/v1#model, or leave endpoint out"
            )
        return
    who = f"teacher {place.model} is behind an endpoint"
    if method.needs_probabilities():
        able = [name for name in METHODS if _answers_suffice(name)]
        raise InputError(
            f"method {config.method.name} as it is set reads the teacher's probabilities, but {who}, "
            f"which gives answers alone; choose one that needs no more ({', '.join(able)}), or a teacher "
            "whose weights are here"
        )
    wrong = {
        "teacher_sft": config.teacher_sft is not None
        and "cannot be fine-tuned; set teacher_sft=null",
        "tasks.probes": "exposure" in config.tasks.probes
        and "cannot be measured against; leave the probe exposure out",
        "pair.student": (PRUNE.match(config.pair.student) or config.pair.student.endswith(".json"))
        and "has no layers and no tokenizer to make a student of; give a model's folder or hub id",
    }
    for setting, why in wrong.items():
        if why:
            raise InputError(f"{setting}: {who} and {why}")


def _answers_suffice(name: str) -> bool:
    found = find_method(name).method
    return found.card.teacher_samples and not found(found.Config()).needs_probabilities()


def spending(asked: Mapping[str, Any]) -> str:
    """One line on what `EndpointTeacher.spent` says."""
    tokens = f"{asked['prompt_tokens']:,} + {asked['completion_tokens']:,} tokens"
    cost = "" if asked["cost"] is None else f", {asked['cost']:.4f} {asked['currency']}"
    return (
        f"teacher {asked['model']}: {asked['answers']} answers, {tokens}{cost}, all runs together"
    )


# -- asking it ------------------------------------------------------------------------------------


def questions(
    rows: Rows, config: RunConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[int, Messages]:
    """What the teacher is asked, by the key of the student's prompt: the row itself, not its template."""
    form = config.training_format
    return {
        prompt_key(render(example, form, tokenizer)): asked_as(example)
        for example in (*rows.train, *rows.prompts)
    }


@dataclass(eq=False, kw_only=True)
class EndpointTeacher:
    """Answers prompts by asking; see `kdbench.trainers.assemble.Parts.ask`.

    Args:
        session: the command.
        place: the endpoint.
        asked: messages by prompt key.
        tokenizer: the student's; answers are written in its tokens.
        end_id: ends an answer that the teacher ended.
        room: tokens of an answer, its end included.
        folder: of what was asked and answered.
    """

    session: Session
    place: Place
    asked: Mapping[int, Messages]
    tokenizer: PreTrainedTokenizerBase
    end_id: int
    room: int
    folder: Path
    _heard: Counter[str] = field(default_factory=Counter, init=False)
    """Answers so far: all, and those that were cut before they said anything."""

    def __call__(self, prompts: Sequence[Prompt], temperature: float) -> list[Answer]:
        """The teacher's answers in prompt order, the same on every rank.

        Raises:
            InputError: not all could be had, or most of so far say nothing; what was said is kept.
        """
        return self.session.of_main(lambda: self._answers(prompts, temperature))

    def spent(self) -> dict[str, Any]:
        """Answers, tokens and costs so far, whichever run made them."""
        log, prices = VerdictLog(JudgeFolder(self.folder)), self._settings.prices
        return {
            "model": self.place.model,
            "base_url": self.place.base_url,
            "answers": log.answered(),
            "prompt_tokens": log.prompt_tokens,
            "completion_tokens": log.completion_tokens,
            "cost": round(log.spent, 9) if prices else None,
            "currency": prices.currency if prices else "",
        }

    @property
    def _settings(self) -> TeacherEndpoint:
        return self.session.config.endpoint

    def _definition(self, temperature: float) -> TeacherAsked:
        given = self._settings.model_dump(exclude={"max_cost"})
        given["parameters"] = {"temperature": temperature, **given["parameters"]}
        return TeacherAsked(model=self.place.model, max_tokens=self.room, **given)

    def _answers(self, prompts: Sequence[Prompt], temperature: float) -> list[Answer]:
        definition = self._definition(temperature)
        calls = [self._call(definition, prompt) for prompt in prompts]
        with RunLock(make_folder(self.folder), wait=WAIT):
            log = VerdictLog(JudgeFolder(self.folder))
            settle_recorded(definition, log)
            stop = self._ask(definition, list(dict.fromkeys(calls)), log)
        rows = [log.verdict(call.key) for call in calls]
        if any(row is None or row.state == "error" for row in rows):
            self._refuse(stop, calls, rows)
        found = [self._answer(row) for row in rows if row is not None]
        self._say_odd([row for row in rows if row is not None], found)
        return found

    def _call(self, definition: TeacherAsked, prompt: Prompt) -> Call:
        messages = self.asked[prompt.key]
        question = [definition.model, self.place.base_url, messages, definition.sampling()]
        key = digest([*question, prompt.sample])[:32]
        return Call(key, messages, "model", "", prompt.sample, 0, f"{prompt.key:016x}", None)

    def _ask(self, definition: TeacherAsked, calls: list[Call], log: VerdictLog) -> Stop | None:
        """Asks what is not recorded, or failed before."""
        known = [row for call in calls if (row := log.verdict(call.key)) is not None]
        answered = {row.key for row in known if row.state != "error"}
        wanted = [Question(call, [log]) for call in calls if call.key not in answered]
        if not wanted:
            return None
        from kdbench.harness.judge.client import Client, read_key

        secret = read_key(definition, self.place.base_url)
        budget = Budget(definition, self._settings.max_cost, log.spent)
        states: Counter[str] = Counter()
        title = f"teacher {self.place.model}"
        with (
            self.session.progress.stage(
                title, len(calls), unit="answer", done=len(answered)
            ) as live,
            Client(definition, self.place.base_url, secret) as client,
        ):

            def show(row: VerdictRow) -> None:
                states[row.state] += 1
                live.update(len(answered) + states.total(), cost=f"{budget.taken:.4f}")

            # an endpoint that has answered takes requests like these: what it refuses is one question
            taken = log.answered() > 0
            return Asking(client, budget, show, read=read_answer, taken=taken).run(wanted)

    def _refuse(
        self, stop: Stop | None, calls: Sequence[Call], rows: Sequence[VerdictRow | None]
    ) -> None:
        failed = {
            call: row
            for call, row in zip(calls, rows, strict=True)
            if row is not None and row.state == "error"
        }
        missing = sum(row is None for row in rows) + len(failed)
        had = f"{len(rows) - missing} of {len(rows)} answers"
        what = f"teacher {self.place.model} gave {had}, which are kept: "
        if stop:
            raise InputError(
                f"{what}{stop.reason}; {stop.remedy or 'the same command asks for the rest'}"
            )
        never = {call: row for call, row in failed.items() if row.status in REFUSALS - ALWAYS}
        call, row = next(iter((never or failed).items()))
        question = shown(call.messages[-1][1])
        if never:
            raise InputError(
                f"{what}{len(never)} refused for what it was asked, such as {question!r}: {row.reason}; take "
                "these rows out of the data, or change the request (endpoint.parameters)"
            )
        raise InputError(
            f"{what}{question!r} failed with: {row.reason}; the same command asks for the rest"
        )

    def _answer(self, row: VerdictRow) -> Answer:
        """An answer in the student's tokens; one that was cut has no end, one without a text nothing else."""
        text = without_thinking(answer_of(row.body)).strip()
        (ids,) = encode(self.tokenizer, [text]) if text else ([],)
        # a filter that cuts an answer in the middle has not ended it; what it withholds whole is empty
        cut = row.state == "truncated" or (row.state == "refused" and bool(text))
        whole = not cut and len(ids) < self.room
        return Answer((*ids, self.end_id) if whole else tuple(ids[: self.room]), whole)

    def _say_odd(self, rows: Sequence[VerdictRow], answers: Sequence[Answer]) -> None:
        empty = sum(answer.ids == (self.end_id,) for answer in answers)
        refused = sum(row.state == "refused" for row in rows)
        cut = sum(not answer.ids for answer in answers)
        self._heard.update(all=len(answers), cut=cut)
        if cut:
            line = (
                f"{cut} of {len(rows)} answers of teacher {self.place.model} were cut before they said "
                "anything: raise train.max_length, or turn thinking off in endpoint.parameters"
            )
            if self._heard["all"] >= FEWEST and 2 * self._heard["cut"] > self._heard["all"]:
                raise InputError(line)
            self.session.progress.say(f"note: {line}; the student learns nothing from them")
        if empty:
            self.session.progress.say(
                f"note: {empty} of {len(rows)} answers of teacher {self.place.model} are empty ({refused} "
                "refused): the student learns to say nothing there; take these rows out if it should not"
            )
