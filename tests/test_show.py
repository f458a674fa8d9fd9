"""``kdbench show`` of runs whose models and users wrote what a terminal would obey."""

import json
from pathlib import Path

import pytest
from fakes import edit, make_run
from typer.testing import CliRunner

from kdbench.harness.cli import app

EVIL = "\x1b]0;title\x07\x9b2J\u202eabc"
SHOWN = r"\x1b]0;title\x07\x9b2J\u202eabc"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = make_run(tmp_path, f"fkd{EVIL}", response=f"line one\nline\ttwo {EVIL}", prompts=4)
    edit(folder / "config.json", {"method.options": {"note": EVIL}, "train.schedule": EVIL})
    for path in folder.glob("eval/*/samples.seed*.jsonl"):
        text = path.read_text()
        for words in ("question 3", "reference 3"):
            text = text.replace(f'"{words}"', json.dumps(words + EVIL))
        path.write_text(text)
    return folder


def show(*arguments: object) -> str:
    """What a terminal gets (colours are not stripped)."""
    result = CliRunner().invoke(app, ["show", *map(str, arguments)], color=True)
    assert result.exit_code == 0, result.output
    return result.output


def obeyed(text: str) -> str:
    """What a terminal would obey, apart from line ends, tabs and the verb's own bold."""
    for own in ("\x1b[1m", "\x1b[0m"):
        text = text.replace(own, "")
    return "".join(c for c in text if not c.isprintable() and c not in "\n\t")


def test_a_card_shows_control_characters(folder: Path) -> None:
    text = show(folder)
    assert text.count(SHOWN) >= 4  # run, folder, method, options …
    assert obeyed(text) == ""


def test_answers_show_control_characters_and_keep_their_lines(folder: Path) -> None:
    text = show(folder, "--sample", 3)
    for line in (f"question 3{SHOWN}", f"reference 3{SHOWN}", "line one", f"line\ttwo {SHOWN}"):
        assert line in text.split("\n")
    assert obeyed(text) == ""


def test_json_holds_the_same_text_in_escapes(folder: Path) -> None:
    text = show(folder, "--sample", 3, "--json")
    assert obeyed(text) == ""
    (prompt,) = json.loads(text)["prompts"]
    assert prompt["prompt"] == f"question 3{EVIL}"
    assert obeyed(show(folder, "--json")) == ""


def test_a_card_of_an_evaluated_model_names_no_method_and_no_training(tmp_path: Path) -> None:
    teacher = make_run(tmp_path, "teacher", None, card={"teacher": None})
    edit(teacher / "config.json", {"method.name": "sft"})
    found = json.loads(show(teacher, "--json"))
    assert found["method"] == "teacher" and found["student"] == "small"
    assert not found.keys() & {"options", "training", "teacher"}
    assert "sft" not in show(teacher)
    (teacher / "summary.json").unlink()
    unfinished = teacher.rename(tmp_path / "eval-my-model-0123456789ab")
    found = json.loads(show(unfinished, "--json"))
    assert found["method"] == "my-model" and "training" not in found
    trained = json.loads(show(make_run(tmp_path, "fkd"), "--json"))
    assert trained["training"]["seed"] == 1 and trained["method"] == "fkd"
