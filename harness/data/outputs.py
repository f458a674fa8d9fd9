"""Answers of another system: read from whatever it wrote them to, and matched with the rows they answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.data.examples import Example
from kdbench.harness.data.places import place_of
from kdbench.harness.data.tables import Row, read_table
from kdbench.harness.data.turns import conversation
from kdbench.harness.errors import InputError
from kdbench.harness.files.store import reading

ANSWERS = (
    *("output", "response", "answer", "prediction", "generated_text", "generation", "completion"),
    *("model_output", "hypothesis", "resps", "text"),
)
"""Columns that hold answers, the first that is there."""

IDS = ("id", "doc_id", "question_id", "idx", "index", "uid")
"""Columns that say which row is answered."""

_ASKED = ("instruction", "prompt", "question")


class Given(NamedTuple):
    """One answer, as it was written.

    Attributes:
        text: the answer.
        id: of the row it answers; empty: by its place.
        seed: of the draw; 0 where none is said.
        asked: the question, where it is repeated; else empty.
    """

    text: str
    id: str
    seed: int
    asked: str


class Answers(NamedTuple):
    """Answers by row: draw (seed) -> row's number -> answer; and how they were matched."""

    by_seed: dict[int, dict[int, str]]
    how: str


def read_answers(name: str) -> list[Given]:
    """The answers in a file: a JSON array of texts, or rows of any format that training data may have.

    Raises:
        InputError: nothing there, no answers in it, or one that is no text.
    """
    place = place_of(name)
    path = Path(place.path)
    if path.suffix.lower() == ".json" and path.is_file():
        with reading(path):
            text = path.read_text(encoding="utf-8-sig")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None  # JSON Lines, or what `read_table` has a sentence for
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return [Given(each, "", 0, "") for each in value]
    table = read_table(place, "test")
    if table is None or not table.rows:
        raise InputError(f"{name} holds no answers; give a JSON array of texts, or a row an answer")
    names = {key for _, row in table.rows for key in row}
    column = next((each for each in (*ANSWERS, "messages") if each in names), None)
    if column is None:
        raise InputError(
            f"{name} has the columns {', '.join(sorted(names)[:12])}, none of which holds answers; call "
            f"it one of {', '.join(ANSWERS[:6])}"
        )
    return [_given(row, column, where) for where, row in table.rows]


def _given(row: Mapping[str, Any], column: str, where: str) -> Given:
    value = row.get(column)
    if column == "messages":
        said = [turn.content for turn in conversation(value, where) if turn.role == "assistant"]
        value = said[-1] if said else ""
    value = "" if value is None else value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if not isinstance(value, str):
        raise InputError(f"{where}: {column} must be a text, not {type(value).__name__}")
    seed = row.get("seed")
    asked = next((row[name] for name in _ASKED if isinstance(row.get(name), str)), "")
    return Given(value, _id(row), seed if isinstance(seed, int) else 0, asked)


def _id(row: Mapping[str, Any]) -> str:
    return next((str(row[name]) for name in IDS if row.get(name) is not None), "")


def row_ids(rows: Sequence[Row]) -> dict[str, int]:
    """Row numbers by the ids that rows have; empty unless all have one of their own."""
    found = {_id(row): number for number, (_, row) in enumerate(rows)}
    return found if "" not in found and len(found) == len(rows) else {}


def matched(
    given: Sequence[Given],
    examples: Sequence[Example],
    ids: Mapping[str, int],
    rows: int,
    name: str,
) -> Answers:
    """Every question's answer.

    Args:
        given: the answers in the order of the file.
        examples: what was asked; ``doc_id`` is a row's number, in order.
        ids: of `row_ids`.
        rows: how many rows there are, with those that nothing is compared with.
        name: of the file of answers, for messages.

    Raises:
        InputError: a question without an answer, two answers, other numbers, other questions.
    """
    by_seed: dict[int, list[Given]] = {}
    for each in given:
        by_seed.setdefault(each.seed, []).append(each)
    numbered = {str(number): number for number in range(rows)}
    found, how = {}, ""
    for seed, answers in sorted(by_seed.items()):
        named = all(each.id for each in answers)
        fitting = (m for m in (ids, numbered) if m and all(each.id in m for each in answers))
        known = next(fitting, None)
        if known is not None:
            found[seed], how = _by_id(answers, known, name), "by id"
        elif named and ids:
            stray = next(each.id for each in answers if each.id not in ids)
            raise InputError(f"{name} answers a row {stray!r} that the references do not have")
        else:
            found[seed], how = _by_place(answers, examples, rows, name), "by position"
        _check(found[seed], examples, name, seed if len(by_seed) > 1 else None)
    _same_questions(by_seed, found, examples, name)
    return Answers(found, how)


def _by_id(answers: Sequence[Given], known: Mapping[str, int], name: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for each in answers:
        if known[each.id] in found:
            raise InputError(
                f"{name} answers row {each.id!r} twice; keep one, or tell draws apart by a column seed"
            )
        found[known[each.id]] = each.text
    return found


def _by_place(
    answers: Sequence[Given], examples: Sequence[Example], rows: int, name: str
) -> dict[int, str]:
    if len(answers) == rows:
        return {number: each.text for number, each in enumerate(answers)}
    if len(answers) == len(examples):
        return {e.doc_id: each.text for e, each in zip(examples, answers, strict=True)}
    raise InputError(
        f"{name} holds {len(answers):,} answers, and the references are {rows:,} rows; give an answer a "
        "row in their order, or name the row of each by a column id"
    )


def _check(
    found: Mapping[int, str], examples: Sequence[Example], name: str, seed: int | None
) -> None:
    absent = [example.doc_id + 1 for example in examples if example.doc_id not in found]
    if absent:
        under = "" if seed is None else f" under seed {seed}"
        raise InputError(
            f"{name} has no answer to {len(absent):,} of {len(examples):,} rows{under} (the first is row "
            f"{absent[0]}); give one to each, an empty text where there is none"
        )


def _same_questions(
    by_seed: Mapping[int, Sequence[Given]],
    found: Mapping[int, Mapping[int, str]],
    examples: Sequence[Example],
    name: str,
) -> None:
    """Refuses answers by position that repeat other questions than the rows ask."""
    for seed, answers in by_seed.items():
        if all(each.id for each in answers) or len(answers) != len(found[seed]):
            continue
        asked = {example.doc_id: example for example in examples}
        for place, (number, each) in enumerate(zip(sorted(found[seed]), answers, strict=True)):
            if each.asked and number in asked and not _asks(asked[number], each.asked):
                raise InputError(
                    f"{name}, row {place + 1}, answers {each.asked[:60]!r}, which is not what row "
                    f"{number + 1} of the references asks; put the answers in their order"
                )


def _asks(example: Example, text: str) -> bool:
    mine = " ".join(" ".join((*example.asked, example.prompt or "")).split())
    return " ".join(text.split()) in mine or example.instruction in text
