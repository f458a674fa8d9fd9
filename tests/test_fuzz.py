"""Damaged inputs end in one clear sentence or in exactly what they say, never in a traceback.

200 inputs of ours: JSON Lines of instructions and of labelled texts, task files, suites. Those of a
judge are in test_judge.py. Every one is a function of its number.
"""

import json
import random
from pathlib import Path
from typing import Any

import nasty
import own_task
import pytest
from lm_eval.tasks import TaskManager

from kdbench.harness.config import TasksConfig
from kdbench.harness.data.examples import load_jsonl
from kdbench.harness.data.labelled import load_labelled
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.evaluation.rehearsal import rehearse
from kdbench.harness.lm import tasks as lm_tasks
from kdbench.harness.resolve import resolve

PIECES = (*nasty.PIECES, b"!function os.getcwd", b"{% for %}", b"9" * 400)


def damaged(random_: random.Random, content: bytes) -> bytes:
    """A file after one to four accidents, those of task files among them."""
    return nasty.damaged(random_, content, PIECES)


def one_sentence(error: InputError) -> None:
    said = str(error)
    assert said and "\n" not in said and "Traceback" not in said, said


def told(path: Path) -> list[dict[str, Any]]:
    """What a file of JSON Lines says, by the letter."""
    lines = path.read_bytes().decode("utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


@pytest.mark.parametrize("number", range(70))
def test_instruction_rows(number: int, tmp_path: Path) -> None:
    random_ = random.Random(number)
    rows = [
        {"instruction": f"Say {n}.", "input": "", "output": ["one", "two ∞"], "topic": "words"}
        for n in range(3)
    ]
    path = tmp_path / "rows.jsonl"
    whole = "".join(json.dumps(row, ensure_ascii=n % 2 > 0) + "\n" for n, row in enumerate(rows))
    path.write_bytes(damaged(random_, whole.encode()))
    try:
        examples = load_jsonl(path)
    except InputError as error:
        one_sentence(error)
        return
    for example, row in zip(examples, told(path), strict=True):
        assert example.instruction == (row.get("instruction") or "")
        given = row["output"] if isinstance(row["output"], list) else [row["output"]]
        assert list(example.references) == [text for text in given if text.strip()]


@pytest.mark.parametrize("number", range(30))
def test_labelled_rows(number: int, tmp_path: Path) -> None:
    random_ = random.Random(100 + number)
    path = tmp_path / "sst2" / "validation.jsonl"
    path.parent.mkdir()
    rows = [{"sentence": f"so good {n}", "label": n % 2} for n in range(3)]
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(damaged(random_, whole.encode()))
    try:
        found = load_labelled("sst2", tmp_path)
    except InputError as error:
        one_sentence(error)
        return
    for example, row in zip(found, told(path), strict=True):
        assert example.fields == {"sentence": row["sentence"]} and example.label == row["label"]


@pytest.mark.parametrize("number", range(50))
def test_task_files(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset_cache: None
) -> None:
    """Until the task has given numbers on its first documents."""
    own_task.write(tmp_path, "")
    path = tmp_path / "own.yaml"
    content = path.read_bytes()
    head, tail = content[: content.index(b"\n") + 1], content[content.index(b"\n") + 1 :]
    # its name stays: without one, no file is read at all
    path.write_bytes(head + damaged(random.Random(200 + number), tail))

    def own(paths: object, defaults: bool) -> TaskManager:
        return TaskManager(include_path=str(tmp_path), include_defaults=False)

    monkeypatch.setattr(lm_tasks, "_read_tasks", own)  # the other 15,000 files take seconds to read
    try:
        tasks_of(TasksConfig(names=("own",), edition="mini-2", include_path=str(tmp_path)))
        rehearse("own", str(tmp_path))
    except InputError as error:
        one_sentence(error)


@pytest.mark.parametrize("number", range(50))
def test_suites(number: int, tmp_path: Path) -> None:
    text = (
        "extends: mini-test\nregime: matched\ntrain:\n  steps: 4\n  lr: 1e-4\n  betas: [0.9, 0.95]\n"
        "generate: {seeds: [10, 20], batch_size: 4}\ntasks: {names: [dolly], limit: 4}\n"
        "methods:\n  dpkd: {train: {lr: 5e-5}}\n"
    )
    path = tmp_path / "own.yaml"
    path.write_bytes(damaged(random.Random(300 + number), text.encode()))
    try:
        resolve(suite=str(path), method="dpkd")
    except InputError as error:
        one_sentence(error)
