"""Rows as people have them, read and understood: which format, which columns, what was dropped and why.

`understand` is a pure function of a place and of how it is to be read; what it returns can be printed, and
nothing is ever dropped that it does not count.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from kdbench.harness.data.columns import Columns, columns_of
from kdbench.harness.data.examples import Example, encodable
from kdbench.harness.data.parts import Turns
from kdbench.harness.data.places import place_of
from kdbench.harness.data.tables import Row, Table, read_table
from kdbench.harness.data.turns import Asked, conversation, questions, unasked
from kdbench.harness.errors import InputError

NAMED = 5
"""Rows of each reason that a line names."""
SEVERAL = ("answers", "outputs")
"""Columns whose cells may hold a JSON list: of another, such a text is the answer itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a table is read.

    Args:
        columns: part of a row -> column; empty: by convention.
        turns: which answers of a conversation count.
        unique: drop rows equal to an earlier one.
        answers: whether rows must have some.
        fallback: read by convention where the table has none of ``columns``.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    turns: Turns = "last"
    unique: bool = False
    answers: bool = True
    fallback: bool = False


class Dropped(NamedTuple):
    """Rows left out for one reason: how many, and the numbers of the first, from 1."""

    reason: str
    rows: int
    first: tuple[int, ...]

    @property
    def said(self) -> str:
        """``3 with an empty answer (rows 4, 6, 10)``."""
        numbers = ", ".join(map(str, self.first))
        more = ", …" if self.rows > len(self.first) else ""
        rows = "rows" if self.rows > 1 else "row"
        return f"{self.rows:,} {self.reason} ({rows} {numbers}{more})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A table of rows as it was understood.

    Attributes:
        place: as it was named.
        format: in words; ``split``: which one, where there are several.
        columns: what they mean.
        rows: how many were read.
        dropped: what became of those that are not among the examples.
        examples: in order; ``doc_id`` is the row's number in the table, from 0, and a conversation of
            which every answer counts makes several of one number.
        repeats: how many of the used rows are equal to an earlier one.
        unlearnt: answers of used conversations that no example has: why, how many, the row of the first.
    """

    place: str
    format: str
    split: str
    columns: Columns
    rows: int
    dropped: tuple[Dropped, ...]
    examples: list[Example]
    repeats: int = 0
    unlearnt: tuple[tuple[str, int, int], ...] = ()

    @property
    def used(self) -> int:
        """Rows that have an example."""
        return len({example.doc_id for example in self.examples})

    @property
    def lines(self) -> list[str]:
        """What people should know, a sentence a line, the place first."""
        split = f", split {self.split}" if self.split else ""
        ignored = ", ".join(self.columns.ignored)
        more = f"; not read: {ignored}" if ignored else ""
        counted = f"{_rows(self.rows)} read"
        if self.dropped:
            total = sum(each.rows for each in self.dropped)
            counted += f", {total:,} dropped: " + ", ".join(each.said for each in self.dropped)
        told = [
            f"{self.place}: {self.format}{split}; {self.columns.told}{more}",
            counted,
        ]
        if self.repeats:
            told.append(
                f"{_rows(self.repeats)} equal to an earlier one, kept: data.unique=true drops them"
            )
        if len(self.examples) != self.used:
            told.append(f"{len(self.examples):,} answers in {self.used:,} conversations")
        if self.unlearnt:
            total = sum(count for _, count, _ in self.unlearnt)
            whys = ", ".join(f"{n:,} {why} (first in row {row})" for why, n, row in self.unlearnt)
            told.append(
                f"{total:,} answer{'s' * (total > 1)} of these conversations not read: {whys}"
            )
        return told


def understand(
    name: str, wanted: str = "train", reading: Reading | None = None
) -> Understood | None:
    """Reads the rows of a file, a folder or a data set of the hub.

    Args:
        name: as `kdbench.harness.data.places` has it.
        wanted: train, dev or test: which split is meant where the name says none.
        reading: how; None: by convention.

    Returns:
        None: the place has splits, and none is for this (only where dev is wanted).

    Raises:
        InputError: nothing there; no format, no shape of ours; no row left; a value of a wrong kind.
    """
    table = read_table(place_of(name), wanted)
    return None if table is None else of_table(name, table, reading or Reading())


def dev_split(train: Understood, reading: Reading) -> Understood | None:
    """The development rows that lie beside training rows; None: there are none."""
    if not train.split or place_of(train.place).split:
        return None
    return understand(train.place, "dev", reading)


def of_table(name: str, table: Table, reading: Reading) -> Understood:
    """The same of a table that was read already."""
    where = f"{name} ({table.format})"
    if not table.rows:
        raise InputError(f"{where} has no rows; give one with at least one")
    values = [row for _, row in table.rows]
    given = reading.columns
    if reading.fallback and given and not any(c in row for row in values for c in given.values()):
        given = {}
    columns = columns_of(values, where, given, answers=reading.answers)
    kept, reasons, repeats, unlearnt = _examples(table.rows, columns, reading)
    dropped = tuple(
        Dropped(reason, len(rows), tuple(rows[:NAMED])) for reason, rows in reasons.items()
    )
    if not kept:
        said = ", ".join(each.said for each in dropped)
        raise InputError(
            f"{where}: no row is left of {len(values):,}: {said}; fill or replace them"
        )
    return Understood(
        place=name,
        format=table.format,
        split=table.split,
        columns=columns,
        rows=len(values),
        dropped=dropped,
        examples=kept,
        repeats=repeats,
        unlearnt=tuple((why, len(rows), rows[0]) for why, rows in unlearnt.items()),
    )


def _examples(
    rows: Sequence[Row], columns: Columns, reading: Reading
) -> tuple[list[Example], dict[str, list[int]], int, dict[str, list[int]]]:
    """The examples, the numbers of rows by why they are dropped, how many kept ones are repeats, and the
    rows of answers that are not read of kept ones.
    """
    kept: list[Example] = []
    reasons: dict[str, list[int]] = {}
    unlearnt: dict[str, list[int]] = {}
    seen: set[Any] = set()
    repeats = 0
    for doc_id, (where, row) in enumerate(rows):
        found, why, left = _of_row(doc_id, where, row, columns, reading)
        if found and not why:
            key = tuple((each.asked, each.references) for each in found)
            if key in seen and reading.unique:
                why = "equal to an earlier row"
            repeats += key in seen and not why
            seen.add(key)
        if why:
            reasons.setdefault(why, []).append(doc_id + 1)
        else:
            kept += found
            for reason in left:
                unlearnt.setdefault(reason, []).append(doc_id + 1)
    return kept, reasons, repeats, unlearnt


class _Read(NamedTuple):
    """What a row asks, why it is dropped, and why single answers of it are not read."""

    found: list[Example]
    why: str
    left: Sequence[str] = ()


def _of_row(
    doc_id: int, where: str, row: Mapping[str, Any], columns: Columns, reading: Reading
) -> _Read:
    left: Sequence[str] = ()
    blank = Example(doc_id, "", "", (), category=_text(row, columns, "category", where) or None)
    if "messages" in columns.of:
        found, why, left = _of_chat(blank, where, row, columns, reading)
    elif "text" in columns.of:
        text = _text(row, columns, "text", where)
        found = [replace(blank, prompt="", references=(text,))]
        why = "" if text.strip() else "with an empty text"
    else:
        found, why, left = _of_question(blank, where, row, columns, reading)
    if not why and not all(map(encodable, found)):
        why = "with half a surrogate pair, which no file can hold"
    return _Read(found, why, left)


def _of_chat(
    blank: Example, where: str, row: Mapping[str, Any], columns: Columns, reading: Reading
) -> _Read:
    turns = conversation(row.get(columns.of["messages"]), where)
    system = _text(row, columns, "system", where)
    first = (("system", system),) if system else ()
    every = reading.turns == "every"
    asked = questions(turns, every=every)
    if not reading.answers and turns and turns[-1].role == "user":
        asked = [Asked(tuple(turns[:-1]), turns[-1].content, "")]
    if not asked:
        said = any(turn.role == "assistant" for turn in turns)
        return _Read([], "with no question before its answer" if said else "with no answer")
    good = [each for each in asked if each.answer.strip() or not reading.answers]
    if not good:
        return _Read([], "with an empty answer")
    found = [
        replace(
            blank,
            turns=first + tuple((turn.role, turn.content) for turn in each.before),
            instruction=each.question,
            references=(each.answer,),
        )
        for each in good
        if each.question.strip()
    ]
    if not found:
        return _Read([], "with an empty question")
    left = ["without a question"] * len(unasked(turns, every=every))
    left += ["with an empty question"] * (len(good) - len(found))
    left += ["empty"] * (len(asked) - len(good))
    return _Read(found, "", left if reading.answers else ())


def _of_question(
    blank: Example, where: str, row: Mapping[str, Any], columns: Columns, reading: Reading
) -> _Read:
    asked = row.get(columns.of.get("instruction", ""))
    answered = row.get(columns.of.get("output", ""))
    if isinstance(asked, list) and asked and isinstance(asked[0], Mapping):
        whole = [*asked, *(answered if isinstance(answered, list) else [])]
        if isinstance(answered, str):
            whole.append({"role": "assistant", "content": answered})
        chat = replace(columns, of={"messages": "turns", **_only(columns.of, "system")})
        given = {"turns": whole, **row}
        return _of_chat(blank, where, given, chat, replace(reading, turns="last"))
    references = _references(answered, columns.of.get("output", ""), where)
    example = replace(
        blank,
        turns=_before(row, columns, where),
        instruction=_text(row, columns, "instruction", where),
        input=_text(row, columns, "input", where),
        prompt=_text(row, columns, "prompt", where) or None,
        references=references,
    )
    if not (example.instruction.strip() or (example.prompt or "").strip()):
        return _Read([], "with an empty question")
    return _Read([example], "" if references or not reading.answers else "with an empty answer")


def _only(of: Mapping[str, str], *parts: str) -> dict[str, str]:
    return {part: of[part] for part in parts if part in of}


def _before(row: Mapping[str, Any], columns: Columns, where: str) -> tuple[tuple[str, str], ...]:
    """The system's text, and earlier questions with their answers (LLaMA-Factory's ``history``)."""
    system = _text(row, columns, "system", where)
    found = [("system", system)] if system else []
    pairs = row.get(columns.of.get("history", "")) or []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_text, pair)):
            raise InputError(f"{where}: history must be pairs of a question and its answer")
        found += [("user", pair[0]), ("assistant", pair[1])]
    return tuple(found)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _references(value: Any, name: str, where: str) -> tuple[str, ...]:
    """The answers that are there, none of them empty; SQuAD's ``{text: […]}`` too, and a JSON list in a
    cell of a column whose name says that there are several.
    """
    if isinstance(value, str) and name.lower().strip() in SEVERAL:
        value = _listed_in(value) or value
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]
    given = value if isinstance(value, list | tuple) else [value]
    wrong = next((each for each in given if each is not None and not _is_text(each)), None)
    if wrong is not None:
        raise InputError(
            f"{where}: {name} must be a text or a list of texts, not {type(wrong).__name__}; write it as text"
        )
    return tuple(text for text in given if text is not None and text.strip())


def _listed_in(cell: str) -> list[str] | None:
    """The texts of a JSON list that a cell holds; None: it holds something else."""
    if not cell.lstrip().startswith("["):
        return None
    try:
        found = json.loads(cell)
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, list) and all(map(_is_text, found)) else None


def _text(row: Mapping[str, Any], columns: Columns, part: str, where: str) -> str:
    name = columns.of.get(part)
    value = row.get(name) if name is not None else None
    if value is None:
        return ""
    if not isinstance(value, str):
        if part == "category":
            return str(value)
        raise InputError(
            f"{where}: {name} must be a text, not {type(value).__name__}; write it as text, or name another "
            "column by --columns"
        )
    return value


# -- parts of what was read -----------------------------------------------------------------------


def first_rows(examples: Iterable[Example], limit: int | None) -> list[Example]:
    """The examples of the first so many rows."""
    found = list(examples)
    if limit is None:
        return found
    wanted = set(list(dict.fromkeys(example.doc_id for example in found))[:limit])
    return [example for example in found if example.doc_id in wanted]


def held_out(
    examples: Sequence[Example], most: int = 200, share: int = 10
) -> tuple[list[Example], list[Example]]:
    """Rows to learn from, and rows kept back to judge by: every ``share``-th, spread evenly, at most
    ``most``.

    Rows that ask the same are never parted. Nothing is kept back of a single row.
    """
    groups: dict[Any, list[Example]] = {}
    by_row: dict[int, list[Example]] = {}
    for example in examples:
        by_row.setdefault(example.doc_id, []).append(example)
    for row in by_row.values():
        groups.setdefault(row[0].asked, []).extend(row)
    each = max(share, -(-len(groups) // most))
    kept = list(groups.values())
    back = {id(group) for group in kept[each - 1 :: each]}
    if not back and len(kept) > 1:
        back = {id(kept[-1])}
    parts: tuple[list[Example], list[Example]] = ([], [])
    for group in kept:
        parts[id(group) in back].extend(group)
    order = {id(example): place for place, example in enumerate(examples)}
    return (
        sorted(parts[0], key=lambda example: order[id(example)]),
        sorted(parts[1], key=lambda example: order[id(example)]),
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
