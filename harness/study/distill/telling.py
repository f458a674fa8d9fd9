"""What ``distill`` says before it trains: rows, three of them as they are trained, settings and why, cost."""

from collections.abc import Iterator, Sequence
from typing import Any

from kdbench.harness.data.examples import Example
from kdbench.harness.data.understood import dev_split
from kdbench.harness.own.settings import size
from kdbench.harness.progress import duration
from kdbench.harness.registry import find_method
from kdbench.harness.study.distill.budget import memory_gb
from kdbench.harness.study.distill.fitting import dropped, tokenised, too_long
from kdbench.harness.study.distill.preparation import DistillRequest, Prepared, task_name
from kdbench.reports.text import document as doc

SHOWN = 3
"""Rows that are shown as they are trained."""
ASKED, ANSWERED = 240, 160
"""Characters of a prompt, and of an answer, that are shown."""
BEGIN, END = "»", "«"
"""Around what is trained."""


def understanding(request: DistillRequest, prepared: Prepared) -> doc.Document:
    """Everything that was understood and chosen, for a person to stop at what is wrong."""
    sections = [
        doc.Section("Models", [doc.Notes(list(_models(request, prepared)))]),
        doc.Section("Data", [doc.Notes(list(_data(request, prepared)))]),
        doc.Section(
            f"As they are trained (between {BEGIN} and {END}: what is learnt)",
            [doc.Block(text) for text in shown(prepared)],
        ),
        doc.Section("Settings", [_settings(prepared)]),
        doc.Section("Methods", [_methods(prepared)]),
        doc.Section("Cost", [doc.Notes(list(_cost(request, prepared)))]),
    ]
    return doc.Document("", sections)


def understood(request: DistillRequest, prepared: Prepared) -> dict[str, Any]:
    """The same as plain data."""
    takes, needed = prepared.takes, _memory(request, prepared)
    return {
        "teacher": request.teacher,
        "student": request.student,
        "models": list(_models(request, prepared)),
        "data": list(_data(request, prepared)),
        "rows": {"train": _rows(prepared.train), "test": _rows(prepared.test)},
        "shown": shown(prepared),
        "settings": [choice._asdict() for choice in prepared.choices],
        "methods": [
            {
                "method": name,
                "why": why,
                "cost": prepared.costs[name],  # of SFT
                "seconds": takes.each[name],
            }
            for name, why in prepared.methods
        ],
        "seeds": list(request.seeds),
        "seconds": {"shared": takes.shared, "total": takes.total},
        "memory_gb": needed and needed[0],
    }


def _models(request: DistillRequest, prepared: Prepared) -> Iterator[str]:
    facts = prepared.facts
    yield f"teacher: {request.teacher} ({size(facts.teacher)} parameters)"
    made = {"pruned": ", some of the teacher's layers", "random": ", random weights"}
    yield f"student: {request.student} ({size(facts.student)}{made.get(facts.student_is, '')})"
    alike = "one tokenizer" if facts.one_tokenizer else "two different tokenizers"
    yield f"{alike}; context {facts.context or 'not named'}; on {facts.device}"


def _data(request: DistillRequest, prepared: Prepared) -> Iterator[str]:
    yield from (f"train: {line}" for line in prepared.found.lines)
    if prepared.tests is not None:
        yield from (f"test: {line}" for line in prepared.tests.lines)
    rows, tests = _rows(prepared.train), _rows(prepared.test)
    if prepared.tests is None:
        yield f"split: {rows:,} rows to learn from, {tests:,} held out as the test {task_name(request)}"
    else:
        yield f"split: {rows:,} rows to learn from, {tests:,} of {request.test} to judge by"
    known = {example.asked for example in prepared.train}
    twice = sum(example.asked in known for example in prepared.test)
    if twice:
        yield f"warning: {_count(twice, 'test row')} asked in training too: scores will flatter"
    yield _dev(prepared)
    _, counts = tokenised(prepared, prepared.train)
    if counts.dropped:
        most = prepared.training["max_prompt"]
        yield f"too long: {_count(counts.dropped, 'row')} dropped, with prompts of over {most} tokens"
    if counts.responses_cut:
        most = prepared.training["max_length"]
        yield f"too long: {_count(counts.responses_cut, 'answer')} cut at {most} tokens"
    if over := too_long(prepared):
        most = prepared.training["max_prompt"]
        what = "left out" if dropped(prepared) else f"cut to their first {most}"
        yield f"too long: {_count(over, 'test row')} {what}, with prompts of over {most} tokens"


def _dev(prepared: Prepared) -> str:
    data = prepared.data
    if data.dev:
        return f"dev: {data.dev}"
    # a split that was written here is a file without one
    if prepared.tests is not None and (found := dev_split(prepared.found, data.reading())):
        return f"dev: {found.lines[0]}; {_rows(found.examples):,} rows"
    return "dev: every tenth of the rows to learn from, at most 200, is held out of them in turn"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _rows(examples: Sequence[Example]) -> int:
    return len({example.doc_id for example in examples})


def shown(prepared: Prepared) -> list[str]:
    """The first, middle and last row as text of the very tokens that are trained, shortened."""
    rows, _ = tokenised(prepared, prepared.train)
    places = sorted({0, len(rows) // 2, len(rows) - 1})[:SHOWN]
    decode = prepared.tokenizer.decode
    return [
        f"{_short(str(decode(list(rows[i].prompt_ids))), ASKED)}"
        f"{BEGIN}{_short(str(decode(list(rows[i].response_ids))), ANSWERED)}{END}"
        for i in places
    ]


def _short(text: str, most: int) -> str:
    """A text without its middle, if it is long."""
    return text if len(text) <= most else f"{text[: most // 2]} […] {text[-most // 2 :]}"


def _settings(prepared: Prepared) -> doc.Table:
    rows = [[c.key, str(c.value), c.why] for c in prepared.choices]
    return doc.Table(["setting", "value", "because"], rows, keys=1)


def _methods(prepared: Prepared) -> doc.Table:
    rows = [
        [
            name,
            why,
            f"{prepared.costs[name]:.1f} × SFT",
            f"about {duration(prepared.takes.each[name])}",
        ]
        for name, why in prepared.methods
    ]
    return doc.Table(["method", "because", "cost", "time"], rows, keys=1)


def _cost(request: DistillRequest, prepared: Prepared) -> Iterator[str]:
    runs = len(prepared.methods) * len(request.seeds)
    yield (
        f"{runs} runs, about {duration(prepared.takes.total)} one at a time, of which "
        f"{duration(prepared.takes.shared)} for the shared init and the reference rows (counted, not "
        "measured: take it as a size)"
    )
    if (needed := _memory(request, prepared)) is not None:
        gb, name = needed
        yield f"memory: about {gb:.1f} GB for tensors at most (training {name}; kdbench plan says more)"


def _memory(request: DistillRequest, prepared: Prepared) -> tuple[float, str] | None:
    """`memory_gb` of what is trained."""
    cards = {name: find_method(name).method.card for name, _ in prepared.methods}
    suite = prepared.suite | {"train": prepared.training}
    return memory_gb((request.teacher, request.student), cards, suite, prepared.facts)
