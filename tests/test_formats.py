"""Boards with probes, judges and label tasks in every format; whole folders; LaTeX that compiles."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from board_runs import build_board, estimate, write_run
from typer.testing import CliRunner

from kdbench.harness.cli import app
from kdbench.harness.errors import CheckFailed, InputError
from kdbench.harness.files.records import Missing, ModelRef
from kdbench.reports.board import FILES, Table, leaderboard, leaderboard_folder
from kdbench.reports.columns import Cell, Point, probe_values

PROBES = {
    "exposure": {
        "prompts": 30,
        "at_length": {
            "ex_acc_err": {"value": None, "low": None, "high": None},
            "R": {"value": 2.0, "low": 1.0, "high": 3.0},
        },
        "undefined": "eps is 0 at 3 of 3 places",
    },
    "calibration": {"ece": estimate(0.1, 0.05), "brier": estimate(0.4, 0.1), "accuracy": 0.75},
    "loss": {"loss": estimate(1.5), "per_token": 1.4},
    "truth": {
        "kl_true_student": estimate(3.0),
        "kl_student_true": {"missing": "no prompt has a value"},
        "modes_covered": estimate(40.0),
        "invalid": estimate(12.0),
    },
    "self_bleu": {"mean": 31.5, "per_seed": [31.0, 32.0]},
    "text": {"cut_share": 0.5},
}
HARD = "50% & $x_1$ #{~^}\\ “é” β 漢字 \x07 KL(true‖q) a|b"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "user-cache"))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    judge = {"gpt-x": {"feedback": estimate(70.0), "score": {"missing": "only 1 of 30 judged"}}}
    write_run(runs, "a", 40, probes=PROBES, judge=judge, tasks=("dolly", "selfinst"))
    write_run(runs, "b", 30, variant=HARD)
    write_run(runs, "teacher", 60, kind="eval", division="reference", training_seed=None)
    return runs


def cells(table: Table, label: str) -> dict[str, Cell | Missing]:
    row = next(i for i, row in enumerate(table.rows) if row.label == label)
    heads = [f"{c.heading} {c.metric}" for c in table.columns]
    return dict(zip(heads, table.cells[row], strict=True))


def test_probes_and_judges_have_columns(runs: Path) -> None:
    (table,) = build_board(runs).tables
    mine, other = cells(table, "a"), cells(table, table.rows[2].label)
    value = mine["dolly[mini] exposure_R"]
    assert isinstance(value, Cell)
    assert (value.mean, value.low, value.high, value.n_prompts) == (2.0, 1.0, 3.0, 30)
    assert not value.decoding_seeds
    assert mine["dolly[mini] exposure_excess"] == Missing(missing="eps is 0 at 3 of 3 places")
    assert mine["dolly[mini] kl_student_true"] == Missing(missing="no prompt has a value")
    bare = mine["dolly[mini] self_bleu"]
    assert isinstance(bare, Cell)
    assert (bare.mean, bare.low, bare.high) == (31.5, None, None)
    for metric, mean in {"token_ece": 0.1, "token_acc": 0.75, "reference_loss": 1.5}.items():
        found = mine[f"dolly[mini] {metric}"]
        assert isinstance(found, Cell)
        assert found.mean == mean
    judged = mine["dolly[mini] by gpt-x judge_feedback"]
    assert isinstance(judged, Cell)
    assert judged.mean == 70
    assert mine["dolly[mini] by gpt-x judge_score"] == Missing(missing="only 1 of 30 judged")
    assert other["dolly[mini] exposure_R"] == Missing(missing="probe not run")
    assert other["dolly[mini] by gpt-x judge_feedback"] == Missing(missing="not judged")
    bold = [c.metric for i, c in enumerate(table.columns) for row in table.cells
            if isinstance(cell := row[i], Cell) and cell.bold]  # fmt: skip
    assert bold == ["rouge_l"]


def test_three_seeds_give_a_bare_value_an_interval(tmp_path: Path) -> None:
    for seed, mean in ((1, 30.0), (2, 31.0), (3, 32.0)):
        write_run(tmp_path, "a", 40, probes={"self_bleu": {"mean": mean}}, training_seed=seed)
    (table,) = build_board(tmp_path).tables
    value = cells(table, "a")["dolly[mini] self_bleu"]
    assert isinstance(value, Cell)
    assert value.low is not None
    assert value.high is not None
    half = 4.302652729911275 / 3**0.5  # t quantile, 2 degrees of freedom; standard deviation 1
    assert value.mean == 31
    assert value.high - value.mean == pytest.approx(half, abs=1e-6)


def test_inits_of_several_training_seeds_are_one_row(tmp_path: Path) -> None:
    def write(seed: int, steps: int) -> None:
        model = ModelRef(name="small", fingerprint=f"{seed}{steps}" * 8, parameters=100_000)
        write_run(
            tmp_path, "sft-init", 20, kind="eval", division="reference", student=model,
            training_seed=seed, settings=f"{steps} steps",
        )  # fmt: skip

    write_run(tmp_path, "a", 40)
    for seed in (1, 2, 3):
        write(seed, 5)
    write(1, 50)
    (table,) = build_board(tmp_path).tables
    seeds = [row.training_seeds for row in table.rows if row.reference]
    assert sorted(seeds) == [[1], [1, 2, 3]]
    assert all(row.reference for row in table.rows[:2])


def test_calibration_of_a_label_task_is_no_probe_of_tokens() -> None:
    assert probe_values({"calibration": {"ece": estimate(0.1), "brier": 0.2}}) == {}
    assert probe_values({"self_bleu": {"mean": 3}}) == {"self_bleu": Point(3.0, 0)}
    odd = probe_values({"loss": {"loss": "x"}, "truth": 3})
    assert list(odd) == ["reference_loss"]
    assert isinstance(odd["reference_loss"], Missing)


def test_tasks_without_decoding_show_no_decoding_seed(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 40, tasks=("dolly", "cls"), likelihood=["cls"])
    (table,) = build_board(tmp_path).tables
    found = cells(table, "a")
    assert [found[f"{task}[mini] rouge_l"].decoding_seeds for task in ("dolly", "cls")] == [  # type: ignore[union-attr]
        [10, 20],
        [],
    ]
    assert "decoding seeds: 10,20 |" in table.signature
    (alone,) = build_board(tmp_path, tasks=["cls"]).tables
    assert "decoding seeds: none |" in alone.signature


@pytest.mark.parametrize("format", ["terminal", "md", "csv", "latex", "json"])
def test_every_format_shows_probes_and_reasons(runs: Path, format: Any) -> None:
    text = leaderboard(runs, format)
    assert "training variance unmeasured" in text
    assert "not tested in pairs" in text
    if format == "terminal":  # headline columns only
        assert "feedback" in text
        assert "not judged" in text
        return
    assert "probe not run" in text
    assert "31.5" in text
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        (row,) = [r for r in rows if r["metric"] == "self_bleu" and r["row"] == "a" and r["mean"]
                  and r["task"] == "dolly"]  # fmt: skip
        assert (row["mean"], row["low"], row["high"]) == ("31.5", "", "")


@pytest.mark.parametrize("format", ["terminal", "md", "csv", "latex", "json", "html"])
def test_every_format_says_which_method_borrows_the_spread_of_seeds(
    tmp_path: Path, format: Any
) -> None:
    runs = tmp_path / "seeds"
    for method, seeds in (("a", 3), ("b", 3), ("c", 1)):
        for seed in range(seeds):
            write_run(runs, method, 30 + seed / 10, training_seed=seed)
    assert "the others' variance between seeds is taken for it" in leaderboard(runs, format)
    for folder in build_board(runs).tables[0].rows[-1].runs:
        shutil.rmtree(runs / f"run-{folder}")
    assert "the others' variance between seeds" not in leaderboard(runs, format)


@pytest.mark.parametrize("format", ["terminal", "md", "csv", "latex", "json"])
def test_no_format_sends_control_characters(tmp_path: Path, format: Any) -> None:
    runs = tmp_path / "odd"
    write_run(runs, "a", 40, variant="red\x1b[31m\x9b1m\u202e", suite="suite\x1b[2J")
    folder = write_run(runs, "b\nforged line", 30)
    (runs / "half\x1b[2K").mkdir()
    (runs / "half\x1b[2K" / "config.json").write_text("{}")
    summary = json.loads((folder / "summary.json").read_text())
    (scores,) = summary["scores"].values()
    scores["metrics"] |= {
        "rouge_l": {"missing": "why\x1b]0;title\x07"},
        "odd\x1bmetric": estimate(1),
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    text = leaderboard(runs, format)
    assert all(character.isprintable() or character in "\n\t" for character in text)
    if format == "terminal":
        assert r"a red\x1b[31m\x9b1m\u202e" in text
        assert r"left out: half\x1b[2K: not finished" in text
        assert not any(line.startswith("forged line") for line in text.splitlines())
    if format == "json":
        assert json.loads(text) == build_board(runs).model_dump(mode="json")


def test_a_spreadsheet_runs_no_text_of_a_csv(tmp_path: Path) -> None:
    runs = tmp_path / "odd"
    write_run(runs, "=HYPERLINK(1)", 40, training_seed=-1, variant="-x")
    write_run(runs, "+cmd|' /C calc'!A0", 40)
    found = csv.DictReader(io.StringIO(leaderboard(runs, "csv")))
    row, *_, other = (line for line in found if line["evaluation"])
    assert {row["method"], other["method"]} == {"'=HYPERLINK(1)", "'+cmd|' /C calc'!A0"}
    assert {row["variant"], other["variant"]} == {"'-x", ""}
    assert {row["training_seeds"], other["training_seeds"]} == {"-1", "1"}


def test_latex_compiles(runs: Path, tmp_path: Path) -> None:
    pdflatex = shutil.which("pdflatex")
    finder = shutil.which("kpsewhich")
    if not pdflatex or not finder:
        pytest.skip("no pdflatex on this machine")
    if subprocess.run([finder, "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("pdflatex is here without its booktabs package")
    table = leaderboard(runs, "latex")
    document = (
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
        f"{table}\n\\end{{document}}\n"
    )
    (tmp_path / "board.tex").write_text(document)
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "board.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "board.pdf").stat().st_size > 1000
    assert table.count("\\begin{tabular}") > 2
    assert max(line.replace("\\&", "").count("&") for line in table.splitlines()) == 6


def test_a_folder_holds_every_format_and_can_be_verified(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "board"
    files = leaderboard_folder(runs, out)
    assert sorted(file.name for file in files) == sorted(FILES.values())
    before = {file.name: file.read_bytes() for file in files}
    assert leaderboard_folder(runs, out, verify=True) == files
    (out / "board.csv").unlink()
    assert len(leaderboard_folder(runs, out, verify=True)) == len(files) - 1
    for file in files:
        if file.suffix in (".md", ".html"):
            file.write_bytes(before[file.name].replace(b"4", b"5", 1))
    with pytest.raises(CheckFailed, match=r"index\.html is not .*; .*board\.md is not"):
        leaderboard_folder(runs, out, verify=True)
    assert (out / "board.md").read_bytes() != before["board.md"]  # verify mends nothing
    with pytest.raises(InputError, match="no board in"):
        leaderboard_folder(runs, tmp_path / "nowhere", verify=True)


def test_verify_trusts_no_remembered_test(runs: Path, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "board"
    leaderboard_folder(runs, out, cache=cache)
    for file in cache.iterdir():  # as an older version of the tests would have left them
        old = json.loads(file.read_text())
        del old["digest"]
        file.write_text(re.sub('"p": [0-9.]+', '"p": 0.456', json.dumps(old)))
    assert leaderboard_folder(runs, out, cache=cache, verify=True)
    json_file = out / "board.json"
    assert (
        leaderboard(runs, "json", out=json_file, cache=cache, verify=True) == json_file.read_text()
    )
    assert "0.456" in leaderboard(runs, "json", cache=cache)  # which is what would have been read


def test_the_command_line(runs: Path, tmp_path: Path) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["leaderboard", str(runs), *arguments])
        return result.exit_code, result.output

    out = tmp_path / "out"
    assert call("--out", str(out))[0] == 0
    assert (out / "index.html").is_file()
    assert call("--out", str(out), "--verify") == (
        0, f"{out} is up to date: {', '.join(FILES.values())}\n",
    )  # fmt: skip
    one = tmp_path / "x.csv"
    assert call("--out", str(one))[0] == 0
    assert one.read_text() == (out / "board.csv").read_text()
    assert call("--out", str(tmp_path / "odd.name"), "--format", "md")[0] == 0
    assert (tmp_path / "odd.name").read_text() == (out / "board.md").read_text()
    text = tmp_path / "x.txt"
    assert call("--out", str(text))[0] == 0
    assert text.read_text() == (out / "board.txt").read_text()
    (empty := tmp_path / "empty").mkdir()
    assert call("--out", str(empty), "--format", "md")[0] == 0
    assert [file.name for file in empty.iterdir()] == ["board.md"]
    assert call("--out", str(empty), "--format", "md", "--verify")[0] == 0
