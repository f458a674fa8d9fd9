"""What the columns of a row mean: by the names that people give them, or as they say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.harness.data.parts import PARTS
from kdbench.harness.data.tables import CHATS
from kdbench.harness.errors import InputError, unknown

_OUTPUTS = ("output", "outputs", "response", "completion", "answer", "answers", "target")
_ANSWERS = ("answer", "answers", "response", "output", "completion", "target")
_INPUTS = ("input", "context", "passage")
_SHAPES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("instruction", ("instruction",), _OUTPUTS),
    ("prompt", ("prompt",), ("completion", "response", "output", "answer", "target")),
    ("question", ("question", "query"), _ANSWERS),
)
"""The kinds of a row: what is asked by, and what is answered by, the first that is there."""

_PREFERENCE = ({"chosen", "rejected"}, {"chosen_response", "rejected_response"})
_LABELS = ("true", "false", "0", "1", "0.0", "1.0")
_PICTURES = ("image", "images", "pixel_values", "audio", "audios", "video", "videos")
LISTED = 12
"""Columns that a sentence names at most."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is which part of a row.

    Attributes:
        kind: in words, as ``prompt/response``.
        of: part (instruction, input, output, system, history, messages, text, category, prompt) ->
            column.
        ignored: columns that nothing is read from.
    """

    kind: str
    of: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """Each column with its part: ``chat messages: turns (as messages)``."""
        said = ", ".join(
            name if name == part else f"{name} (as {part})"
            for part, name in self.of.items()
            if part != "prompt" or "instruction" not in self.of
        )
        if "prompt" in self.of and "instruction" in self.of:
            said += f"; {self.of['prompt']} in place of them under the template alpaca only"
        return f"columns {said}" if "output" in self.of else f"{self.kind}: {said}"


def columns_of(
    rows: Sequence[Mapping[str, Any]],
    where: str,
    given: Mapping[str, str] | None = None,
    *,
    answers: bool = True,
) -> Columns:
    """What the columns of a table mean.

    Args:
        rows: all of them: a row may lack some columns, or have none there.
        where: the table with its format, for messages.
        given: a key of `kdbench.harness.data.parts.PARTS` -> column; empty: by convention.
        answers: whether rows must have some.

    Raises:
        InputError: they hold what is not distilled from (preferences, pictures), or mean nothing known.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    filled = {name for row in rows for name, value in row.items() if value is not None}
    if given:
        return _given(names, given, where)
    lower = {name.lower().strip(): name for name in reversed(names)}
    _refuse(rows, {name for name in lower if lower[name] in filled}, lower, where)
    chat = next((lower[name] for name in CHATS if lower.get(name) in filled), None)
    if chat is not None:
        kind = "chat turns (ShareGPT)" if "from" in _first_keys(rows, chat) else "chat messages"
        return _columns(kind, {"messages": chat} | _also(lower, "system", "category"), names)
    for kind, asking, answering in _SHAPES:
        asked = next((lower[name] for name in asking if name in lower), None)
        answered = next((lower[name] for name in answering if name in lower), None)
        if asked is not None and (answered is not None or not answers):
            return _asked(kind, asked, answered, lower, names)
    if "text" in lower and answers:
        return _columns("plain text", {"text": lower["text"]}, names)
    raise InputError(
        f"{where} has the columns {_listed(names)}, which are none of the shapes that are known "
        "(instruction/input/output, prompt/response, prompt/completion, question/answer, messages, "
        "conversations, text); say which is which by --columns prompt=COLUMN,response=COLUMN or --set "
        "data.columns=…"
    )


def _asked(
    kind: str, asked: str, answered: str | None, lower: Mapping[str, str], names: list[str]
) -> Columns:
    of = {"instruction": asked} | ({"output": answered} if answered is not None else {})
    given = next((lower[name] for name in _INPUTS if name in lower), None)
    if given is not None and given not in of.values():
        of["input"] = given
    if kind == "instruction" and "prompt" in lower:  # MiniLLM's files: its ready prompt
        of["prompt"] = lower["prompt"]
    if kind == "prompt" and answered is not None and answered.lower() == "output":
        of = {"prompt": asked, "output": answered}
    of |= _also(lower, "system", "history", "category")
    if "topic" in lower:
        of["category"] = lower["topic"]
    said = "/".join(of[part] for part in ("instruction", "prompt", "input", "output") if part in of)
    return _columns(said, of, names)


def _also(lower: Mapping[str, str], *parts: str) -> dict[str, str]:
    return {part: lower[part] for part in parts if part in lower}


def _columns(kind: str, of: Mapping[str, str], names: Iterable[str]) -> Columns:
    return Columns(kind, of, tuple(name for name in names if name not in of.values()))


def _given(names: list[str], given: Mapping[str, str], where: str) -> Columns:
    of: dict[str, str] = {}
    for part, column in given.items():
        if part not in PARTS:
            raise unknown("part of a row", part, PARTS)
        if column not in names:
            raise unknown("column", column, names, f" in {where}")
        of[PARTS[part]] = column
    chat, text = "messages" in of, "text" in of
    if not chat and not text and "instruction" not in of:
        raise InputError(
            f"{where}: columns name no prompt (or messages, or text); add prompt=COLUMN"
        )
    kind = "chat messages" if chat else "plain text" if text else "/".join(given.values())
    return _columns(kind, of, names)


def _refuse(
    rows: Sequence[Mapping[str, Any]], filled: set[str], lower: Mapping[str, str], where: str
) -> None:
    for pair in _PREFERENCE:
        if pair <= filled:
            chosen = lower[min(pair)]
            value = next(row[chosen] for row in rows if row.get(chosen) is not None)
            how = f"prompt={lower.get('prompt', 'COLUMN')},response={chosen}"
            how = how if isinstance(value, str) else f"messages={chosen}"
            raise InputError(
                f"{where} holds preference data ({' and '.join(sorted(pair))}), which no method here "
                f"learns from; to learn from the answers that were chosen: --columns {how}"
            )
    if {"prompt", "completion", "label"} <= filled and _desired(rows, lower["label"]):
        raise InputError(
            f"{where} holds preference data (completion and label), which no method here learns from; "
            "keep the rows whose label is true, and drop that column"
        )
    pictures = [name for name in _PICTURES if name in filled]
    if pictures:
        raise InputError(
            f"{where} holds {', '.join(pictures)}: kdbench distils models of text only; give rows "
            "without that column if they make sense without it"
        )


def _desired(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column says of each row whether its answer is a good one, as CSV writes it, too."""
    given = [str(row[column]).strip().lower() for row in rows if row.get(column) is not None]
    said = [text for text in given if text]
    return bool(said) and all(text in _LABELS for text in said)


def _first_keys(rows: Sequence[Mapping[str, Any]], column: str) -> set[str]:
    """Keys of the first turn that there is."""
    for row in rows:
        turns = row.get(column)
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            return set(turns[0])
        if isinstance(turns, str) and turns:
            return {"from"} if '"from"' in turns[:200] else set()
    return set()


def _listed(names: Sequence[str]) -> str:
    said = ", ".join(name[:40] for name in names[:LISTED])
    return said + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "") or "none"
