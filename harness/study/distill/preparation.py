"""What ``distill`` understood of a request, and what it will do: everything before the first training."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.harness.config import DataConfig, slug
from kdbench.harness.data.examples import Example, examples_sha256
from kdbench.harness.data.places import from_anywhere, stem
from kdbench.harness.data.templates import PromptFormat
from kdbench.harness.data.understood import (
    Reading,
    Understood,
    first_rows,
    held_out,
    understand,
)
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record
from kdbench.harness.files.store import read_json, write_json, write_text
from kdbench.harness.identity import digest
from kdbench.harness.own.facts import measure
from kdbench.harness.own.settings import (
    OWN,
    Choice,
    Facts,
    auto_methods,
    own_settings,
    own_tree,
    passes_of,
)
from kdbench.harness.own.suite import device_kind
from kdbench.harness.own.tasks import read_task
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.resolve import changes_of, load_suite, merge
from kdbench.harness.study.command import StudyRequest
from kdbench.harness.study.distill.asked import (
    asked_data,
    asked_form,
    asked_of_tests,
    trained_tokens,
    training_of,
    with_asked,
    with_columns,
    with_settings,
)
from kdbench.harness.study.distill.budget import (
    AFFORDABLE,
    DECODING,
    Budget,
    Expected,
    expected,
    relative_cost,
    speed_of,
    tokens_of,
)
from kdbench.harness.study.distill.fitting import check_tests
from kdbench.harness.study.distill.split import split_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DECODING_SEEDS = 2
SPLIT = "data"
"""Folder of the rows that were held out, and of those that were left to train on."""
CHOSEN = "distill.json"
"""`Chosen`, in the request's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRequest:
    """What is asked for.

    Attributes:
        teacher, student: models, as of ``kdbench run``.
        data: rows to learn from.
        test: rows to judge by; None: held out of ``data``.
        methods: which; None: chosen by the pair (`auto_methods`).
        budget: None: by the number of rows.
        seeds: training seeds.
        columns: part of a row -> column; empty: by convention.
        out: folder of all that is made.
        making: where and by whom runs are made; its settings hold for all runs.
        talkative: print what was understood, and the outcome.
        told: given what was understood and chosen, as plain data, before anything is trained.
    """

    teacher: str
    student: str
    data: str
    test: str | None
    methods: tuple[str, ...] | None
    budget: Budget | None
    seeds: tuple[int, ...]
    columns: Mapping[str, str]
    out: Path
    making: StudyRequest
    talkative: bool = True
    told: Callable[[dict[str, Any]], None] | None = None


class Chosen(Record):
    """Choices that would come out differently on a busier machine."""

    asked: str
    tokens: int | None
    methods: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request understood.

    Attributes:
        found, tests: training and test rows as read; ``tests`` None: held out of ``found``.
        kept: rows that are not the test's; ``train``: those of them that are learnt from; ``test``.
        facts: of pair and data; ``choices`` follow from them.
        methods: each with the reason.
        costs: of the methods, relative to SFT.
        takes: about how long.
        tokenizer: the student's.
        suite: all settings, as a suite; ``training``: of the methods, where they have none of their own.
        chosen: what another call of the same request goes on with.
    """

    found: Understood
    tests: Understood | None
    kept: list[Example]
    train: list[Example]
    test: list[Example]
    facts: Facts
    choices: list[Choice]
    methods: list[tuple[str, str]]
    costs: dict[str, float]
    takes: Expected
    tokenizer: "PreTrainedTokenizerBase"
    suite: dict[str, Any]
    training: dict[str, Any]
    chosen: Chosen

    @property
    def form(self) -> PromptFormat:
        """How rows become prompts."""
        return self.data.form(self.suite["pair"]["template"])

    @property
    def data(self) -> DataConfig:
        """What the suite says of the rows."""
        return DataConfig.model_validate(self.suite["data"])


def prepare_distillation(request: DistillRequest) -> Prepared:
    """Reads the data, looks at the models, and chooses; writes nothing.

    Raises:
        InputError: whatever cannot be had, understood or used, in one sentence.
    """
    from kdbench.harness.contents import local_copy
    from kdbench.trainers.models import load_tokenizer

    device, speed = _device(request)
    settings = request.making.settings
    data = asked_data(request.data, settings)
    data = data.model_copy(update={"columns": dict(request.columns or data.columns)})
    found = _rows(data)
    tests = read_task(request.test, asked_of_tests(settings), data) if request.test else None
    kept, test = (found.examples, tests.examples) if tests else _parted(found.examples)
    train = first_rows(kept, data.limit)
    if not test or len(train) < 2:
        raise InputError(
            f"{request.data} has {found.used} rows: too few to hold some back; give more, or test rows "
            "by --eval"
        )
    form = asked_form(data, settings)
    facts = measure(request.teacher, request.student, train, tests=test, asked=form, device=device)
    answers, seeds = len(test) * DECODING_SEEDS, len(request.seeds)
    asked = _asked(request, train, test, device)
    before = _chosen_before(request, asked)
    methods = before.methods if before else _methods(request, facts, answers, speed)
    costs = _costs([name for name, _ in methods], facts)
    tokens = (
        before.tokens if before else tokens_of(request.budget, facts, costs, answers, seeds, speed)
    )
    choices = own_settings(facts, tokens, changes_of(settings, {}))
    named = [find_method(name).name for name, _ in methods]
    suite = with_settings(_suite(request, choices), settings, named)
    suite = with_columns(suite, data.columns if request.test else None)
    training = training_of(suite, settings)
    trained = trained_tokens(training, facts)
    whole = request.student if facts.student_is == "whole" else request.teacher
    prepared = Prepared(
        found=found,
        tests=tests,
        kept=kept,
        train=train,
        test=test,
        facts=facts,
        choices=with_asked(choices, settings),
        methods=methods,
        costs=costs,
        takes=expected(facts, costs, trained, answers, seeds, speed),
        tokenizer=load_tokenizer(str(local_copy(whole))),
        suite=suite,
        training=training,
        chosen=Chosen(asked=asked, tokens=tokens, methods=methods),
    )
    check_tests(prepared)
    return prepared


def _device(request: DistillRequest) -> tuple[str, float]:
    """Cpu or cuda, where runs are made, and operations a second of this machine, as `speed_of` counts.

    Raises:
        InputError: no such device, or a budget of time for machines that cannot be measured here.
    """
    from kdbench.harness.session import chosen_device

    named, executor = request.making.device, request.making.executor.partition(":")[0]
    if executor == "local":
        here = chosen_device(named).type
        return here, speed_of(here)
    if request.budget is not None and request.budget.kind == "seconds":
        raise InputError(
            f"--budget of {request.budget.amount / 60:g} minutes is counted by how fast this machine is, but "
            f"--executor {executor} trains on others; give what each method has, as 3ep or 5Mtok"
        )
    here = device_kind()
    there = here if named == "auto" else named.partition(":")[0]
    if there not in DECODING:
        raise InputError(f"no such device as {named!r}; use --device cpu, cuda or auto")
    return there, speed_of(here)


def _asked(
    request: DistillRequest, train: Sequence[Example], test: Sequence[Example], device: str
) -> str:
    """Digest of what decides the choices that depend on how fast this machine is at the moment."""
    rows = [examples_sha256(train), examples_sha256(test)]
    pair = [request.teacher, request.student]
    seeds = list(request.seeds)
    return digest([pair, rows, request.methods, request.budget, seeds, device])


def _chosen_before(request: DistillRequest, asked: str) -> "Chosen | None":
    """What the same request chose before, so that it goes on with that."""
    file = request.out / CHOSEN
    with contextlib.suppress(InputError):
        found = Chosen.model_validate(read_json(file)) if file.is_file() else None
        return found if found is not None and found.asked == asked else None
    return None


def keep_chosen(request: DistillRequest, prepared: Prepared) -> None:
    """Keeps what was chosen, for the same request when it comes again."""
    write_json(request.out / CHOSEN, prepared.chosen.model_dump(mode="json"))


def _rows(data: DataConfig) -> Understood:
    """Training rows as runs read them."""
    place = data.train
    found = understand(place, "train", data.reading())
    if found is None:
        raise InputError(f"{place} has no split for train; name one, as in {place}::SPLIT")
    if any(example.is_text for example in found.examples):
        raise InputError(
            f"{place} is plain text: distill needs questions and answers; give such rows, or name their "
            "columns by --columns prompt=a,response=b"
        )
    return found


def _parted(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Rows to learn from, and rows held out, which are asked as tasks ask: the last question of each."""
    kept, back = held_out(examples)
    return kept, list({example.doc_id: example for example in back}.values())


def _costs(methods: Sequence[str], facts: Facts) -> dict[str, float]:
    passes = passes_of(facts.rows)
    return {name: relative_cost(find_method(name).method.card, facts, passes) for name in methods}


def _methods(
    request: DistillRequest, facts: Facts, answers: int, speed: float
) -> list[tuple[str, str]]:
    """The methods asked for, or those that the pair and the budget allow."""
    if request.methods is not None:
        _check_methods(request.methods, facts)
        return [(name, "asked for") for name in request.methods]
    costs = _costs(list(METHODS), facts)
    chosen = auto_methods(facts, costs, AFFORDABLE)
    if request.budget is not None and request.budget.kind == "seconds":
        while len(chosen) > 1 and find_method(chosen[-1][0]).method.card.student_samples:
            left = {name: costs[name] for name, _ in chosen}
            tokens = tokens_of(request.budget, facts, left, answers, len(request.seeds), speed) or 0
            if tokens >= facts.rows * facts.answers.mean:  # a whole pass for everybody
                break
            chosen.pop()
    return chosen


def _check_methods(methods: Sequence[str], facts: Facts) -> None:
    """Refuses unknown methods, and those that a pair with two tokenizers cannot be compared by."""
    cards = {name: find_method(name).method.card for name in methods}
    unfit = [name for name, card in cards.items() if card.same_tokenizer]
    if unfit and not facts.one_tokenizer:
        able = [name for name in METHODS if not find_method(name).method.card.same_tokenizer]
        raise InputError(
            f"--methods {','.join(unfit)}: compared token by token, but teacher and student have different "
            f"tokenizers; choose from {', '.join(able)}, or auto"
        )


def _suite(request: DistillRequest, choices: list[Choice]) -> dict[str, Any]:
    """The whole suite: what `OWN` says, what was chosen, and whose models and data it is for."""
    tree = merge(load_suite(OWN), own_tree(choices))
    place = from_anywhere(request.data) if request.test else str(split_file(request, "train"))
    test = from_anywhere(request.test) if request.test else str(split_file(request, "test"))
    named = {
        "pair": {"teacher": _anywhere(request.teacher), "student": _anywhere(request.student)},
        "data": {"train": place},
        "tasks": {"names": [f"{task_name(request)}={test}"]},
    }
    return merge(tree, named)


def _anywhere(model: str) -> str:
    """A model's folder or file, named so that it is found from anywhere; other names as they are."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


def split_file(request: DistillRequest, split: str) -> Path:
    """Where rows of a split are written."""
    return request.out.resolve() / SPLIT / f"{split}.jsonl"


def task_name(request: DistillRequest) -> str:
    """What tables call the test rows: by their file, or as those held out of the data."""
    return slug(stem(request.test)) if request.test else f"{slug(stem(request.data))}-held-out"


def write_split(request: DistillRequest, prepared: Prepared) -> None:
    """Writes the rows of a split that was made here; the same rows make the same bytes.

    Raises:
        InputError: they would be read as other rows.
    """
    if prepared.tests is not None:
        return
    train = prepared.data.reading()
    for split, examples, reading in (
        ("train", prepared.kept, train),
        ("test", prepared.test, Reading()),
    ):
        file = split_file(request, split)
        write_text(file, split_text(examples))
        back = understand(str(file), split, reading)
        if back is None or [*map(_said, back.examples)] != [*map(_said, examples)]:
            raise InputError(
                f"rows of {request.data} cannot be written so that they are read as they were ({file}); "
                "give test rows of your own by --eval"
            )


def _said(example: Example) -> tuple[Any, ...]:
    return example.asked, example.references
