"""Held-out rows, and those left to learn from, as files that are read as the rows that were shown."""

import json
from collections.abc import Sequence
from typing import Any

from kdbench.harness.data.examples import Example


def split_text(examples: Sequence[Example]) -> str:
    """Rows as JSON Lines, which are read again as these examples.

    A file has one kind of row: where a conversation has several answers to learn, all rows are
    conversations; where turns are no questions and answers, all are turns and the one that answers them.
    """
    groups: dict[int, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.doc_id, []).append(example)
    several = any(len(group) > 1 for group in groups.values())
    odd = any(_pairs(group[0]) is None for group in groups.values())
    write = _conversation if several else _turns if odd else _question
    # the last answer of a conversation has all that was said before
    rows = [write(group[-1]) for group in groups.values()]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _pairs(example: Example) -> list[list[str]] | None:
    """Earlier questions with their answers; None: what was said before is something else."""
    turns = example.turns[1:] if _system(example) else example.turns
    if any(role != ("user", "assistant")[place % 2] for place, (role, _) in enumerate(turns)):
        return None
    texts = [text for _, text in turns]
    return None if len(texts) % 2 else [texts[i : i + 2] for i in range(0, len(texts), 2)]


def _system(example: Example) -> str:
    first = example.turns[:1]
    return first[0][1] if first and first[0][0] == "system" else ""


def _conversation(example: Example) -> dict[str, Any]:
    row = _turns(example)
    return {"messages": row.pop("prompt") + row.pop("completion")} | row


def _turns(example: Example) -> dict[str, Any]:
    """What was said, and the one answer that is learnt, of which the earlier ones are none."""
    asked = ("user", "\n\n".join(filter(None, example.question)))
    said = (*example.turns, asked, ("assistant", example.references[0]))
    messages = [{"role": role, "content": text} for role, text in said]
    parts = {"prompt": messages[:-1], "completion": messages[-1:]}
    return parts | _given(category=example.category)


def _question(example: Example) -> dict[str, Any]:
    answers = list(example.references)
    answer = answers if len(answers) > 1 else answers[0]
    row = _given(system=_system(example), history=_pairs(example))
    if example.instruction:
        row |= {"instruction": example.instruction, "input": example.input}
    row |= _given(prompt=example.prompt)
    return row | {"output": answer} | _given(category=example.category)


def _given(**parts: Any) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if value}
