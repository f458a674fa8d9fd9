"""The parts of a row, by the names that a user may give them. Nothing heavy: configurations read it."""

from typing import Any, Literal

Turns = Literal["last", "every"]
"""Which answers of a conversation are learnt."""

PARTS: dict[str, str] = {
    "prompt": "instruction",
    "instruction": "instruction",
    "question": "instruction",
    "input": "input",
    "context": "input",
    "response": "output",
    "output": "output",
    "answer": "output",
    "completion": "output",
    "system": "system",
    "messages": "messages",
    "conversations": "messages",
    "text": "text",
    "category": "category",
}
"""Name of a part -> what it is here."""


def columns_given(value: Any) -> Any:
    """``prompt=a,response=b`` as a mapping; a mapping as it is.

    Raises:
        ValueError: a part that is none, or no text of that form.
    """
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(sign and column.strip() for _, sign, column in pairs):
            raise ValueError("write PART=COLUMN pairs, as prompt=a,response=b")
        value = {part.strip(): column.strip() for part, _, column in pairs}
    if isinstance(value, dict):
        for part in value:
            if part not in PARTS:
                raise ValueError(f"{part!r} is no part of a row; known are {', '.join(PARTS)}")
    return value
