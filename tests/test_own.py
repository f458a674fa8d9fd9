"""Suite ``own``: settings by size and data, a line where another suite meets foreign models, distill."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from own_models import chat_model, chats

import kdbench
from kdbench.harness import cli
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.lengths import check_lengths
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import read_json
from kdbench.harness.own.facts import pruned, sized
from kdbench.harness.own.notes import evaluated_note, foreign_note, refuse_guessed
from kdbench.harness.own.settings import (
    POLICY,
    SAMPLED,
    Facts,
    Lengths,
    auto_methods,
    batch_of,
    own_settings,
    own_tree,
    passes_of,
)
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.resolve import load_suite, merge, resolve
from kdbench.harness.study.distill import budget as costs
from kdbench.harness.study.distill.preparation import _check_methods
from kdbench.reports.facts import facts
from kdbench.reports.runs import finished_runs
from kdbench.tasks.mini.tokenizer import build_tokenizer
from kdbench.trainers.models import load_tokenizer

FACTS = Facts(
    teacher=1_500_000_000,
    student=135_000_000,
    student_is="whole",
    context=2048,
    chat=True,
    turns=False,
    one_tokenizer=True,
    rows=2_600,
    prompts=Lengths(80.0, 250, 900),
    answers=Lengths(60.0, 300, 1500),
    device="cpu",
)


def chosen(facts: Facts, tokens: int | None = None) -> dict[str, object]:
    return {choice.key: choice.value for choice in own_settings(facts, tokens)}


def test_settings_follow_from_size_and_data() -> None:
    found = chosen(FACTS)
    assert found["pair.template"] == "chat"
    assert (found["train.max_prompt"], found["train.max_length"]) == (256, 256 + 320)
    assert found["train.batch_size"] == 32
    assert found["train.lr"] == 1.4e-4  # 1e-4 · sqrt(32 / 16)
    assert found["train.response_tokens"] == 3 * 2_600 * 60
    assert all(choice.why for choice in own_settings(FACTS))
    # a larger model learns slower, a pruned one faster; a short context is kept
    assert chosen(replace(FACTS, student=7_000_000_000))["train.lr"] == 2e-5
    assert chosen(replace(FACTS, student_is="pruned"))["train.lr"] == 2.8e-4
    short = chosen(replace(FACTS, context=256))
    assert (short["train.max_prompt"], short["train.max_length"]) == (128, 256)
    assert chosen(replace(FACTS, chat=False))["pair.template"] == "alpaca"
    assert chosen(FACTS, 5_000)["train.response_tokens"] == 5_000
    assert [batch_of(n) for n in (10, 350, 1_100, 10**6)] == [8, 8, 16, 64]
    assert [passes_of(n) for n in (300, 50_000, 10**6)] == [3, 2, 1]


def test_warm_up_is_a_share_of_the_steps_that_are_asked_for() -> None:
    many = replace(FACTS, rows=20_000)
    own = {"train.warmup": 28, "train.eval_every": 234, "init_sft.warmup": 9}
    for asked, changed in (
        ({}, {}),
        ({"train": {"steps": 20}}, {"train.warmup": 1, "train.eval_every": 5}),
        ({"train": {"epochs": 1, "batch_size": 32}}, {"train.warmup": 19, "train.eval_every": 156}),
        ({"train": {"response_tokens": 6000}}, {"train.warmup": 0, "train.eval_every": 1}),
        ({"train": {"epochs": 1, "steps": 100}}, {"train.warmup": 3, "train.eval_every": 25}),
        ({"init_sft": {"steps": 100}}, {"init_sft.warmup": 3}),
        ({"train": {"steps": "many", "epochs": 10**999}, "init_sft": None}, {}),
    ):
        found = {key: value for key, value, _ in own_settings(many, asked=asked)}
        assert {key: found[key] for key in own} == own | changed


def test_every_method_that_samples_the_student_has_a_rate_of_its_own() -> None:
    found = own_tree(own_settings(FACTS))["methods"]
    for name in METHODS:
        if find_method(name).method.card.policy != "off" or name == "plad":
            assert name in found, name
    assert set(found) == {*SAMPLED, *POLICY, "seqkd"}
    assert found["minillm"]["train"]["lr"] == 1.4e-5


def test_auto_takes_what_the_pair_and_the_budget_allow() -> None:
    cheap = {"gkd": 2.0, "distillm": 3.0, "seqkd": 1.5}
    dear = dict.fromkeys(cheap, 30.0)
    named = [name for name, _ in auto_methods(FACTS, cheap, 4.0)]
    assert named == ["sft", "seqkd", "fkd", "rkd", "gkd", "distillm"]
    assert [name for name, _ in auto_methods(FACTS, dear, 4.0)] == ["sft", "fkd", "rkd"]
    apart = replace(FACTS, one_tokenizer=False)
    assert [name for name, _ in auto_methods(apart, cheap, 4.0)] == ["sft", "uld", "dskd"]


def test_methods_that_the_tokenizers_forbid_are_refused_at_once() -> None:
    _check_methods(["sft", "fkd"], FACTS)
    _check_methods(["sft", "uld"], replace(FACTS, one_tokenizer=False))
    with pytest.raises(InputError, match=r"--methods fkd,gkd: .* choose from sft, "):
        _check_methods(["sft", "fkd", "gkd"], replace(FACTS, one_tokenizer=False))


def test_budgets_are_read_and_a_time_becomes_tokens() -> None:
    assert costs.parse_budget("2h") == ("seconds", 7200.0)
    assert costs.parse_budget("30m") == ("seconds", 1800.0)
    assert costs.parse_budget("3ep") == ("passes", 3.0)
    assert costs.parse_budget("5Mtok") == ("tokens", 5e6)
    for wrong in ("2", "h", "0h", "3 apples"):
        with pytest.raises(InputError, match="--budget"):
            costs.parse_budget(wrong)
    of = {"sft": 1.0, "fkd": 1.5}
    tokens = costs.tokens_of(costs.parse_budget("9h"), FACTS, of, 100, 1, 5e11)
    assert tokens is not None
    takes = costs.expected(FACTS, of, tokens, 100, 1, 5e11).total
    assert takes == pytest.approx(9 * 3600, rel=1e-3)
    with pytest.raises(InputError, match="give more"):
        costs.tokens_of(costs.parse_budget("1m"), FACTS, of, 100, 1, 5e11)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_of_every_method_is_planned(pair: Path, device: str) -> None:
    facts = replace(FACTS, device=device)
    suite = merge(load_suite("own"), own_tree(own_settings(facts)))
    teacher = str(pair / "teacher")
    for name in METHODS:
        found = costs.memory_gb(
            (teacher, "prune:1"), {name: find_method(name).method.card}, suite, facts
        )
        assert found is not None and found[0] > 0, name


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, another model, and rows."""
    folder = tmp_path_factory.mktemp("own")
    chat_model(folder / "teacher")
    chats(folder / "rows.jsonl")
    chats(folder / "test.jsonl", 8, start=100)
    return folder


def test_the_suite_measures_what_the_command_line_names(pair: Path) -> None:
    with pytest.raises(
        InputError, match=r"add --student .*pair.student=MODEL\) and --set data.train=FILE"
    ):
        resolve(suite="own", method="sft", flags={"pair.teacher": str(pair / "teacher")})
    flags = {"pair.teacher": str(pair / "teacher"), "pair.student": "prune:1"}
    data = f"data.train={pair / 'rows.jsonl'}"
    config = resolve(suite="own", method="gkd", assignments=[data, "train.steps=7"], flags=flags)
    assert (config.pair.template, config.suite, config.data.text) == ("chat", "own", None)
    assert config.train.steps == 7 and config.train.response_tokens is None
    assert (config.train.warmup, config.train.eval_every) == (0, 1)
    assert config.train.max_length < 256 and config.init_sft is not None
    world = resolve(suite="mini", method="sft").model_dump()
    for key in ("dev", "text", "prompts"):
        assert getattr(config.data, key) != world["data"][key]
    assert foreign_note(config) == ""
    whole = sized(str(pair / "teacher"))
    assert (
        whole.layers == 2 and pruned(whole, 1).parameters == whole.parameters - whole.in_layers // 2
    )


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        *((f"data.limit={wrong}", "--set data: limit") for wrong in ("abc", "1.5", "0")),
        ("data.columns=foo=bar", "'foo' is no part of a row"),
        ("data.turns=first", "--set data: turns"),
        ("pair.template=mine", "--set pair: template"),
        ("tasks.limit=0", "--set tasks: limit"),
    ],
)
def test_a_wrong_value_of_the_own_suite_is_a_sentence(pair: Path, setting: str, says: str) -> None:
    own = {"pair.teacher": str(pair / "teacher"), "pair.student": "prune:1"}
    data = f"data.train={pair / 'rows.jsonl'}"
    with pytest.raises(InputError, match=says):
        resolve(suite="own", method="sft", assignments=[data, setting], flags=own)


def test_the_own_suite_reads_the_data_folder(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    (tmp_path / "dolly").mkdir()
    rows = [{"instruction": "red", "input": "", "output": "blue"}] * 40
    (tmp_path / "dolly" / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    own = {"pair.teacher": str(pair / "teacher"), "pair.student": "prune:1", "data.train": "dolly"}
    found = resolve(suite="own", method="sft", flags=own, data_dir=tmp_path)
    assert found.train.batch_size == 8 and found.train.max_prompt == 32


def test_prompts_of_tests_have_room_or_are_told_before_the_training(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in chats(tmp_path / "s", 6, 100).read_text().splitlines()]
    for place, row in enumerate(rows):
        row["messages"][0]["content"] = " ".join(
            [row["messages"][0]["content"]] * (1 + 20 * (place > 3))
        )
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"pair.teacher": str(pair / "teacher"), "pair.student": "prune:1"}
    own["data.train"] = str(pair / "rows.jsonl")
    alone = resolve(suite="own", method="sft", flags=own)
    config = resolve(suite="own", method="sft", flags={**own, "tasks.names": [str(test)]})
    assert config.train.max_prompt > alone.train.max_prompt
    told: list[str] = []
    tokenizer = load_tokenizer(str(pair / "teacher"))
    check_lengths(config, None, tokenizer, told.append)
    assert not told
    flags = {**own, "tasks.names": [str(test)], "train.max_prompt": 64}
    check_lengths(resolve(suite="own", method="sft", flags=flags), None, tokenizer, told.append)
    assert told == ["test: 2 of 6 prompts will be left out, with over 64 tokens (train.max_prompt)"]
    test.write_text("".join(json.dumps(row) + "\n" for row in rows[4:]))
    said = ["run", "--suite", "own", "--method", "sft", "--tasks", str(test), "--device", "cpu"]
    said += ["--runs-dir", str(tmp_path / "runs")]
    given = {**own, "train.max_prompt": 64, "train.max_length": 128, "train.steps": 1}
    for key, value in given.items():
        said += ["--set", f"{key}={value}"]
    with pytest.raises(SystemExit) as caught:
        cli.main(said)
    err = " ".join(capsys.readouterr().err.split())
    assert caught.value.code == 2 and "task test: all 2 prompts are longer than 64" in err, err
    assert "--set train.max_prompt=N" in err
    assert not [*tmp_path.glob("runs/*/train")]


def test_one_line_says_whose_settings_a_suite_has(pair: Path) -> None:
    theirs = {"pair.teacher": str(pair / "teacher")}
    note = foreign_note(resolve(suite="mini", method="sft", flags=theirs))
    assert "suite mini was made for mini-2:teacher" in note and "--suite own" in note
    assert "template mini" in note and "text of mini-2" in note
    mine = [f"data.train={pair / 'rows.jsonl'}"]
    assert "rows.jsonl" in foreign_note(resolve(suite="smollm2", method="sft", assignments=mine))
    for flags in ({}, {"pair.student": "prune:3"}, {"pair.student": "mini-2:student-large"}):
        assert foreign_note(resolve(suite="mini", method="sft", flags=flags)) == ""
    assert foreign_note(resolve(suite="mini", method="sft", assignments=["data.train=dolly"])) == ""


def test_nobody_is_asked_by_the_generated_worlds_settings_unknowingly(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, mine = str(pair / "rows.jsonl"), str(pair / "teacher")
    with pytest.raises(SystemExit) as caught:
        cli.main(["eval", "--model", mine, "--tasks", rows, "--runs-dir", str(tmp_path)])
    said = " ".join(capsys.readouterr().err.split())
    assert caught.value.code == 2 and "name another suite" in said
    assert "(template mini, prompts of at most 64 tokens)" in said
    with pytest.raises(InputError, match="--suite smollm2 --template chat"):
        kdbench.evaluate(mine, tasks=rows, runs_dir=tmp_path)
    config = resolve(suite="mini", method="sft", flags={"tasks.names": [rows]})
    world = tmp_path / "student"
    build_tokenizer().save_pretrained(world)
    for known in ("teacher", "mini-2:student", str(world)):
        refuse_guessed(config, known)
        assert evaluated_note(config, known) == ""
    chat = resolve(suite="mini", method="sft", flags={"tasks.template": "chat"})
    refuse_guessed(chat, mine)
    assert "asked by its settings: template chat, prompts of at most 64" in evaluated_note(
        chat, mine
    )
    assert evaluated_note(resolve(suite="smollm2", method="sft"), mine) == ""


def test_distill_from_a_file_to_the_best_student(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pair / "out"  # the notebook goes on with it
    line = ["distill", "--teacher", str(pair / "teacher"), "--student", "prune:1"]
    line += ["--data", str(pair / "rows.jsonl"), "--eval", str(pair / "test.jsonl")]
    line += ["--methods", "sft,fkd", "--budget", "300tok", "--out", str(out)]

    def told(*more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main([*line, *more])
        assert ended.value.code == 0
        return capsys.readouterr().out

    dry = told("--dry-run")
    assert not out.exists()
    flat = " ".join(dry.split())
    assert "60 rows read" in flat and "8 of " in flat and "2 runs, about " in flat
    assert dry.count("»") == 4 and "train.lr" in dry and "because" in dry
    said = told()
    assert "push: hf upload" in said and f"page: {out / 'board' / 'index.html'}" in said
    table = said[said.index("95% interval") : said.rindex("student: ")].splitlines()
    assert max(map(len, table)) <= 80
    rows = [words[0] for row in table if (words := row.split())]
    assert rows.index("teacher") < rows.index("sft-init") < min(map(rows.index, ("sft", "fkd")))
    assert "not distinguishable" in said or "ahead on these test rows: " in said
    student = Path(said.rpartition("\nstudent: ")[2].splitlines()[0])
    assert (student / "model.safetensors").is_file()
    card = (student / "README.md").read_text()
    assert str(pair) not in card and "base_model" not in card
    # the same call finds everything done, from Python too
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    found = kdbench.distill(
        pair / "teacher",
        "prune:1",
        pair / "rows.jsonl",
        eval=pair / "test.jsonl",
        methods=["sft", "fkd"],
        budget="300tok",
        out=out,
        quiet=True,
        say=False,
    )
    assert found is not None and found.student == student.resolve() and found.failures == []
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    assert {"teacher", "sft-init"} <= set(found.table.index) and len(found.samples) == 16
    assert found.report().is_file() and str(found).startswith(" ") and found.best
    assert json.loads(json.dumps(found.as_json()))["student"] == str(found.student)
    suite = (out / "suite.yaml").read_text()
    assert "train.lr:" in suite and not (out / "data").exists()
    prepared = RunFolder(found.winner.path).prepare.read()
    (run,), _ = finished_runs([found.winner.path])
    assert (facts(run) or {})["dev_overlap"]["test"], "whether rows of the file were trained on"
    assert prepared.hub == [] and read_json(out / "distill.json")["tokens"] == 300


def test_what_was_understood_is_a_document_too(
    pair: Path, kdbench: Callable[..., tuple[int, str, str]]
) -> None:
    out = pair / "nothing"
    line = ["distill", "--teacher", pair / "teacher", "--student", "prune:1", "--out", out]
    line += ["--data", pair / "rows.jsonl", "--eval", pair / "test.jsonl"]
    line += ["--methods", "sft,fkd", "--budget", "300tok"]
    code, said, error = kdbench(*line, "--dry-run", "--json")
    assert code == 0 and not out.exists(), error
    plain = json.loads(said)
    assert [method["method"] for method in plain["methods"]] == ["sft", "fkd"]
    assert all(method["cost"] > 0 and method["seconds"] > 0 for method in plain["methods"])
    assert plain["rows"]["test"] == 8 and plain["rows"]["train"] > 0 and len(plain["shown"]) == 3
    settings = {row["key"]: row for row in plain["settings"]}
    assert settings["train.lr"]["value"] > 0 and settings["train.lr"]["why"]


@pytest.mark.long
def test_tune_of_the_own_suite_ends_in_a_board_or_in_students(
    pair: Path, tmp_path: Path, kdbench: Callable[..., tuple[int, str, str]]
) -> None:
    chats(tmp_path / "test.jsonl", 6, 100)
    named = [f"pair.teacher={pair / 'teacher'}", "pair.student=prune:1"]
    named.append(f"data.train={pair / 'rows.jsonl'}")
    said = ["tune", "--methods", "sft", "--suite", "own", "--trials", "2:0.5", "--seeds", "10"]
    said += [
        "--device",
        "cpu",
        "--runs-dir",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    ]
    said += [part for setting in named for part in ("--set", setting)]
    code, out, err = kdbench(*said)
    assert code == 0, err
    assert "trained, nothing was asked" in out and "kdbench eval" in out
    code, out, err = kdbench(*said, "--set", f"tasks.names=[{tmp_path / 'test.jsonl'}]")
    assert code == 0, err
    assert (tmp_path / "out" / "board" / "index.html").is_file() and "sft" in out


def test_distill_says_what_is_wrong_before_anything_is_made(pair: Path, tmp_path: Path) -> None:
    good = {"teacher": pair / "teacher", "student": "prune:1", "data": pair / "rows.jsonl"}
    good |= {"out": tmp_path / "out", "dry_run": True, "say": False}
    with pytest.raises(InputError, match="did you mean sft"):
        kdbench.distill(**good, methods="sfx")
    with pytest.raises(InputError, match="--budget"):
        kdbench.distill(**good, budget="soon")
    with pytest.raises(InputError, match="no model at"):
        kdbench.distill(**good | {"teacher": tmp_path / "none"})
    with pytest.raises(InputError, match="--columns"):
        kdbench.distill(**good, columns="prompt")
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "Once upon a time."}\n' * 3)
    with pytest.raises(InputError, match="plain text"):
        kdbench.distill(**good | {"data": text})
    one = chats(tmp_path / "one.jsonl", 1)
    with pytest.raises(InputError, match="too few"):
        kdbench.distill(**good | {"data": one})
    assert not (tmp_path / "out").exists()


NOTEBOOK = Path(__file__).parents[1] / "docs" / "own-data.ipynb"


def executed(folder: Path, first: str) -> list[dict[str, Any]]:
    """The outputs of the notebook's cells in a real kernel, the first cell replaced."""
    nbclient = pytest.importorskip("nbclient", reason="pip install 'kdbench[test]'")
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(NOTEBOOK, as_version=4)
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    codes[0].source = first
    client = nbclient.NotebookClient(book, timeout=3600, resources={"metadata": {"path": folder}})
    client.execute()
    return [output for cell in codes for output in cell.outputs]


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs_on_a_tiny_pair(pair: Path, tmp_path: Path) -> None:
    first = f"TEACHER, STUDENT = {str(pair / 'teacher')!r}, 'prune:1'\n"
    first += f"DATA, TEST = {str(pair / 'rows.jsonl')!r}, {str(pair / 'test.jsonl')!r}\n"
    first += f"BUDGET, OUT = '300tok', {str(pair / 'out')!r}"
    outputs = executed(tmp_path, first)
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("<table" in data.get("text/html", "") for data in shown)
    assert any("index.html" in data["text/plain"] for data in shown)
    said = "".join(output["text"] for output in outputs if "text" in output)
    assert "60 rows read" in said and "push: hf upload" in said


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs_on_the_real_pair(data_dir: Path, tmp_path: Path) -> None:
    teacher = os.environ.get("KDBENCH_SMOLLM2")
    if not teacher:
        pytest.skip("the real pair is not here: KDBENCH_SMOLLM2 names no folder")
    page = (NOTEBOOK.parent / "own-data.md").read_text()
    (tmp_path / "make_chat.py").write_text(page.split("```python\n")[1].split("```")[0])
    made = [sys.executable, "make_chat.py", str(data_dir / "dolly" / "train.jsonl")]
    subprocess.run(made, cwd=tmp_path, check=True)
    first = f"TEACHER, STUDENT = {teacher!r}, 'prune:6'\n"
    first += "DATA, TEST, BUDGET, OUT = 'support.jsonl', 'questions.jsonl', '1ktok', 'best'"
    outputs = executed(tmp_path, first)
    assert any("<progress" in o["data"].get("text/html", "") for o in outputs if "data" in o)
    assert (tmp_path / "best" / "board" / "index.html").is_file()


@pytest.mark.filterwarnings("ignore")
def test_progress_is_a_bar_in_a_notebook() -> None:
    nbclient = pytest.importorskip("nbclient", reason="pip install 'kdbench[test]'")
    nbformat = pytest.importorskip("nbformat")
    code = (
        "from kdbench.harness.progress import Progress\n"
        "with Progress().stage('train', 4) as live:\n"
        "    live.update(3, loss=1.5)\n"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(book, timeout=300).execute()
    (output,) = book.cells[0].outputs
    assert 'value="1.0000"' in output.data["text/html"]
    assert output.data["text/plain"].startswith("train: 3 steps in")
