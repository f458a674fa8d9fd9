"""Answers of another system: read from whatever it wrote them to, and matched with the rows they answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.data.columns import LISTED
from kdbench.harness.data.examples import Example
from kdbench.harness.data.places import place_of
from kdbench.harness.data.tables import Row, read_table
from kdbench.harness.data.turns import conversation
from kdbench.harness.errors import InputError, unknown
from kdbench.harness.files.store import reading

ANSWERS = (
    ("prediction", "generated_text", "generation", "model_output", "hypothesis", "resps"),
    ("output", "response", "answer", "completion", "text"),
    ("messages",),
)
"""Columns that hold answers, by how sure that is: beside one that a model wrote for certain, those of the
second kind hold what it should have written."""

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


class Outputs(NamedTuple):
    """The answers of a file, and the column that they stood in; empty: the file holds nothing else."""

    given: list[Given]
    column: str
    ignored: tuple[str, ...]

    @property
    def line(self) -> str:
        """``answers: column prediction; not read: output``."""
        more = f"; not read: {', '.join(self.ignored[:LISTED])}" if self.ignored else ""
        return (
            f"answers: column {self.column}{more}" if self.column else "answers: an array of texts"
        )


class Answers(NamedTuple):
    """Answers by row: draw (seed) -> row's number -> answer; and how they were matched."""

    by_seed: dict[int, dict[int, str]]
    how: str


def read_answers(name: str, column: str | None = None) -> Outputs:
    """The answers in a file: a JSON array of texts, or rows of any format that training data may have.

    Args:
        name: of the file.
        column: that holds them; None: by its name.

    Raises:
        InputError: nothing there, no answers in it, several columns that may hold them, or one that is no
            text.
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
            if column is not None:
                raise InputError(
                    f"{name} is an array of texts, without columns; drop --answer-column"
                )
            return Outputs([Given(each, "", 0, "") for each in value], "", ())
    table = read_table(place, "test")
    if table is None or not table.rows:
        raise InputError(f"{name} holds no answers; give a JSON array of texts, or a row an answer")
    rows = [row for _, row in table.rows]
    names = list(dict.fromkeys(key for row in rows for key in row))
    if column is not None and column not in names:
        raise unknown("column", column, names, f" in {name}")
    column = column or _column_of(rows, names, name)
    used = {column, "seed", *IDS, *_ASKED}
    ignored = tuple(each for each in names if each not in used)
    return Outputs([_given(row, column, where) for where, row in table.rows], column, ignored)


def _column_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str], where: str) -> str:
    """The column that holds the answers, by its name.

    Raises:
        InputError: none does, or several may.
    """
    there = [each for each in names if any(row.get(each) is not None for row in rows)]
    for kind in ANSWERS:
        found = [each for each in there if each.lower().strip() in kind]
        filled = [each for each in found if any(row.get(each) for row in rows)] or found
        if len(filled) > 1:
            raise InputError(
                f"{where} has several columns that may hold the answers: {', '.join(filled)}; say which does "
                f"by --answer-column, as in --answer-column {filled[0]}"
            )
        if filled:
            return filled[0]
    raise InputError(
        f"{where} has the columns {', '.join(sorted(names)[:LISTED])}, none of which holds answers by "
        "its name; say which does by --answer-column COLUMN"
    )


def _given(row: Mapping[str, Any], column: str, where: str) -> Given:
    value = row.get(column)
    turns = isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    if turns or column.lower().strip() == "messages":
        said = [turn.content for turn in conversation(value, where) if turn.role == "assistant"]
        value = said[-1] if said else ""
    value = "" if value is None else value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if not isinstance(value, str):
        raise InputError(f"{where}: {column} must be a text, not {type(value).__name__}")
    asked = next((row[name] for name in _ASKED if isinstance(row.get(name), str)), "")
    return Given(value, _id(row), _seed(row.get("seed")), asked if column not in _ASKED else "")


def _seed(value: Any) -> int:
    """A draw's seed, which CSV holds as text; 0: none is said."""
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() else 0
    if isinstance(value, float):
        return int(value) if value.is_integer() else 0
    return value if isinstance(value, int) else 0


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
    found: dict[int, dict[int, str]] = {}
    how = ""
    for seed, answers in sorted(by_seed.items()):
        named = all(each.id for each in answers)
        known = [m for m in (ids, numbered) if m and all(each.id in m for each in answers)]
        if named and ids and not known:
            stray = next(each.id for each in answers if each.id not in ids)
            raise InputError(f"{name} answers a row {stray!r} that the references do not have")
        how = "by id" if known else "by position"
        # ids of the references may be numbers as well: the questions tell them from row numbers
        ways = [_by_id(answers, each, name) for each in known]
        ways = ways or [_by_place(answers, examples, rows, name)]
        others = [_other(way, examples) for way in ways]
        placed = next((w for w, other in zip(ways, others, strict=True) if not other), ways[0])
        found[seed] = {number: each.text for number, each in placed.items()}
        _check(found[seed], examples, name, seed if len(by_seed) > 1 else None)
        if all(others):
            _refuse_other(others[0], answers, name, how)
    return Answers(found, how)


def _by_id(answers: Sequence[Given], known: Mapping[str, int], name: str) -> dict[int, Given]:
    found: dict[int, Given] = {}
    for each in answers:
        if known[each.id] in found:
            raise InputError(
                f"{name} answers row {each.id!r} twice; keep one, or tell draws apart by a column seed"
            )
        found[known[each.id]] = each
    return found


def _by_place(
    answers: Sequence[Given], examples: Sequence[Example], rows: int, name: str
) -> dict[int, Given]:
    if len(answers) == rows:
        return dict(enumerate(answers))
    if len(answers) == len(examples):
        return {e.doc_id: each for e, each in zip(examples, answers, strict=True)}
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


def _other(found: Mapping[int, Given], examples: Sequence[Example]) -> tuple[Example, Given] | None:
    """The first answer that repeats another question than its row asks."""
    placed = ((example, found.get(example.doc_id)) for example in examples)
    return next(
        ((one, each) for one, each in placed if each and each.asked and not _asks(one, each.asked)),
        None,
    )


def _refuse_other(
    other: tuple[Example, Given] | None, answers: Sequence[Given], name: str, how: str
) -> None:
    if other is None:
        return
    example, each = other
    place = next(place for place, one in enumerate(answers, start=1) if one is each)
    remedy = "put the answers in their order" if how == "by position" else "repair its id"
    raise InputError(
        f"{name}, row {place}, answers {each.asked[:60]!r}, which is not what row {example.doc_id + 1} "
        f"of the references asks; {remedy}"
    )


def _asks(example: Example, text: str) -> bool:
    mine = " ".join(" ".join((*example.asked, example.prompt or "")).split())
    theirs = " ".join(text.split())
    return theirs in mine or " ".join(example.instruction.split()) in theirs
