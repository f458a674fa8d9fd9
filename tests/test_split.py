"""Held-out rows are written so that they are read as they were shown."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbench.harness.data.understood import Reading, understand
from kdbench.harness.study.distill.split import split_text

CHAT = [("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
MESSAGES = [{"role": role, "content": text} for role, text in CHAT]
PLAIN = {"instruction": "Add.", "input": "1 2", "output": "3"}
ROWS: dict[str, list[Mapping[str, Any]]] = {
    "instruction": [PLAIN, PLAIN | {"input": ""}],
    "ready prompt": [PLAIN | {"prompt": "Q: Add. A:"}, PLAIN],
    "prompt alone": [{"prompt": "Q: Add. A:", "output": "3"}],
    "references": [PLAIN | {"system": "Be brief.", "output": ["3", "three"]}, PLAIN],
    "category": [PLAIN | {"category": "sums"}, PLAIN],
    "history": [PLAIN | {"system": "Be brief.", "history": [["a?", "b"]], "output": ["3", "4"]}],
    "one turn": [{"messages": MESSAGES[:2]}, {"system": "Be brief.", "messages": MESSAGES[:2]}],
    "turns": [{"messages": MESSAGES, "category": "talk"}, {"messages": MESSAGES[:2]}],
    "turns and completion": [
        {"prompt": MESSAGES[:3], "completion": MESSAGES[3:]},
        {"prompt": MESSAGES[1:3], "completion": MESSAGES[3:], "category": "talk"},
        {"prompt": [{"role": "system", "content": "s"}, *MESSAGES[1:3]], "completion": "d"},
    ],
    "odd turns": [{"messages": MESSAGES[:1] + MESSAGES[2:]}, {"messages": MESSAGES[:2]}],
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_come_back_as_they_were(kind: str, tmp_path: Path) -> None:
    reading = Reading(turns="every")
    file, again = tmp_path / "rows.jsonl", tmp_path / "again.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
    found = understand(str(file), "train", reading)
    assert found is not None and len(found.examples) >= len(ROWS[kind]) - 1
    again.write_text(split_text(found.examples))
    back = understand(str(again), "train", reading)
    assert back is not None
    assert [replace(e, doc_id=0) for e in back.examples] == [
        replace(e, doc_id=0) for e in found.examples
    ]
    assert [e.doc_id for e in back.examples] == [e.doc_id for e in found.examples]
