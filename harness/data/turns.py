"""Conversations as people store them: who said what, whatever the names of the fields are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdbench.harness.errors import InputError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
}
"""Who speaks, by what files call them."""

_TOOLS = (
    "tool",
    "function",
    "function_call",
    "observation",
    "tool_call",
    "tool_response",
    "ipython",
)
_WHO, _WHAT = ("role", "from", "speaker"), ("content", "value", "text")


class Said(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


class Asked(NamedTuple):
    """A question of a conversation, and its answer.

    Attributes:
        before: what was said before the question.
        question: the user's turn.
        answer: the assistant's; empty: none was given.
    """

    before: tuple[Said, ...]
    question: str
    answer: str


def conversation(value: Any, where: str) -> list[Said]:
    """The turns of one row's conversation.

    Args:
        value: a list of turns, or its JSON (as CSV holds it): ``role`` and ``content``, or ShareGPT's
            ``from`` and ``value``.
        where: of the row, for messages.

    Raises:
        InputError: it is no conversation, or holds what no model of text can read.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where} is no conversation: {value[:40]!r} is no JSON list"
            ) from error
    if value is None:
        return []
    if not isinstance(value, Sequence) or not all(isinstance(turn, Mapping) for turn in value):
        raise InputError(
            f"{where} is no conversation; write a list of turns, each {{role, content}} or {{from, value}}"
        )
    return [_turn(turn, f"{where}, turn {number}") for number, turn in enumerate(value, start=1)]


def _turn(turn: Mapping[str, Any], where: str) -> Said:
    who = next((turn[key] for key in _WHO if isinstance(turn.get(key), str)), None)
    if who is None:
        raise InputError(
            f"{where} does not say whose it is; write role (or from): user, assistant …"
        )
    role = ROLES.get(who.strip().lower())
    if who.strip().lower() in _TOOLS or turn.get("tool_calls") or turn.get("function_call"):
        raise InputError(
            f"{where} is a call of a tool or its result ({who!r}), which is not trained on here; leave such "
            "conversations out, or write the call as text"
        )
    if role is None:
        raise InputError(f"{where} is said by {who!r}; known are {', '.join(ROLES)}")
    key = next((key for key in _WHAT if key in turn), None)
    if key is None:
        raise InputError(f"{where} says nothing; write content (or value)")
    return Said(role, _content(turn[key], where))


def _content(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(part, Mapping) for part in value):
        kinds = {str(part.get("type", "text")) for part in value}
        if pictures := sorted(kinds - {"text", "input_text", "output_text"}):
            raise InputError(
                f"{where} holds {', '.join(pictures)}: kdbench distils models of text only; give "
                "conversations without it"
            )
        return "".join(str(part.get("text") or "") for part in value)
    raise InputError(f"{where}: content must be a text, not {type(value).__name__}")


def questions(turns: Sequence[Said], *, every: bool) -> list[Asked]:
    """The user's turns that the assistant answers next, each with all that was said before it.

    Several turns of one speaker on end stay as they are: the chat template may refuse them.

    Args:
        turns: of one conversation.
        every: all of them; else the last.

    Returns:
        Answers that follow no question are never asked for.
    """
    found = []
    for place, turn in enumerate(turns):
        if turn.role == "assistant" and place and turns[place - 1].role == "user":
            before = tuple(turns[: place - 1])
            found.append(Asked(before, turns[place - 1].content, turn.content))
    return found if every else found[-1:]


def unasked(turns: Sequence[Said], *, every: bool) -> list[Said]:
    """The assistant's turns that follow no question and say something; of the last alone, those behind it."""
    start, found = 0, list[Said]()
    for place, turn in enumerate(turns):
        if turn.role == "assistant" and place and turns[place - 1].role == "user":
            start = len(found)
        elif turn.role == "assistant" and turn.content.strip():
            found.append(turn)
    return found if every else found[start:]
