"""``import kdbench``: light, whole, and the same as the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import runs as processes

import kdbench
from kdbench.harness.api.calls import assignments
from kdbench.harness.files.run_folder import RunFolder

TINY = {"train.lr": 2e-3, "train.steps": 4, "init_sft": {"steps": 2}}


def test_the_package_is_light_and_names_what_it_has() -> None:
    code = (
        "import sys, kdbench; print(kdbench.__version__); "
        "heavy = {'torch', 'pandas', 'pydantic', 'typer'} & set(sys.modules); assert not heavy, heavy; "
        "assert {'run', 'evaluate', 'leaderboard', 'load_run'} <= set(dir(kdbench)); "
        "assert issubclass(kdbench.InputError, ValueError)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = processes.finish("--version")
    assert told.split() == ["kdbench", found.stdout.strip()]
    by_module = [sys.executable, "-m", "kdbench", "--version"]
    assert subprocess.run(by_module, capture_output=True, text=True, check=True).stdout == told
    with pytest.raises(AttributeError, match="'rum'"):
        kdbench.rum  # noqa: B018  # asking is the test
    for name in kdbench.__all__:
        assert getattr(kdbench, name)


def test_a_run_from_python_is_the_run_of_the_command_line(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    asked = {"suite": "mini-test", "tasks": "dolly", "limit": 4, "settings": TINY}
    made = kdbench.run("sft", **asked, runs_dir=runs_dir, quiet=True)
    assert list(made.table.index)[:3] == ["truth", "teacher", "sft-init"]
    assert made.table.shape[0] == 4 and "dolly[mini-test:4] ROUGE-L" in made.table
    assert set(made.scores["kind"]) == {"run", "eval"}
    assert (made.student / "model.safetensors").is_file()
    assert len(made.samples) == 8 and {"prompt", "response", "rouge_l"} <= set(made.samples)
    assert made.report(tmp_path / "report").read_text().startswith("<!")
    assert str(made).endswith(f"folder: {made.path}") and "<table" in made._repr_html_()
    # the manifest names the command, and that command finds nothing left to do
    manifest = RunFolder(made.path).manifest.read()
    before = (made.path / "manifest.json").read_bytes()
    again = processes.finish(*manifest.argv[1:], "--runs-dir", str(runs_dir), "--json")
    assert (made.path / "manifest.json").read_bytes() == before
    (table,) = json.loads(again)["tables"]
    assert [row["label"] for row in table["rows"]] == list(made.table.index)
    # others read it
    board = kdbench.leaderboard(runs_dir, metrics=["rouge_l"])
    assert board.table.equals(made.table[["dolly[mini-test:4] ROUGE-L"]])
    assert board.report(tmp_path / "board").name == "index.html"
    loaded = kdbench.load_run(made.path.name, runs_dir=runs_dir)
    assert loaded.student == made.student and loaded.table.equals(made.table)
    more = kdbench.evaluate(made.path, tasks=["selfinst"], limit=2, quiet=True)
    assert set(more.scores["task"]) == {"selfinst"}


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(kdbench.InputError, match="did you mean sft"):
        kdbench.run("sfx", runs_dir=tmp_path)
    with pytest.raises(kdbench.InputError, match="no key is called 'train"):
        kdbench.run("sft", settings={"train.lrr": 1}, runs_dir=tmp_path)
    with pytest.raises(kdbench.InputError, match="give a mapping"):
        kdbench.run("sft", settings="train.lr=1", runs_dir=tmp_path)
    with pytest.raises(kdbench.InputError, match="no finished run"):
        kdbench.leaderboard(tmp_path)
    with pytest.raises(kdbench.InputError, match="no run folder"):
        kdbench.load_run("none", runs_dir=tmp_path)
    with pytest.raises(kdbench.InputError, match="no data folder"):
        kdbench.run("sft", suite="mini-test", data_dir=tmp_path / "none", runs_dir=tmp_path)


def test_settings_are_written_as_the_command_line_reads_them() -> None:
    given = {
        "train.lr": 1e-4,
        "train.betas": [0.9, 0.95],
        "data.text": None,
        "pair.student": "a: b",
    }
    assert assignments(given) == [
        *("train.lr=0.0001", "train.betas=[0.9, 0.95]", "data.text=null", "pair.student='a: b'")
    ]
    assert assignments(["train.lr=1"]) == ["train.lr=1"]
    with pytest.raises(kdbench.InputError, match="a object is no text"):
        assignments({"data.text": object()})
