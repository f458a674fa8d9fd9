"""What a researcher types and prints: studies over methods, settings, tables for papers and screens."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from board_runs import write_run
from evaluations import write_evaluation
from rich.cells import cell_len

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Summary
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.resolve import resolve
from kdbench.harness.study.definition import Study
from kdbench.harness.study.distill.outcome import outcome, outcome_document
from kdbench.reports.board import build, leaderboard
from kdbench.reports.columns import Cell
from kdbench.reports.documents.board import board_document
from kdbench.reports.text.terminal import Terminal
from kdbench.reports.verdict import verdict

Kdbench = Callable[..., tuple[int, str, str]]
TASKS = ("dolly", "selfinst", "vicuna", "sni", "unni")
REFERENCE: dict[str, Any] = {
    "tasks": TASKS,
    "kind": "eval",
    "division": "reference",
    "training_seed": None,
}
CHANGES = ["train.lr=0.00025", "teacher_mix=0.2", "data.train=my_rows_2026.jsonl"]


@pytest.fixture
def kdbench(kdbench: Kdbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kdbench:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "user-cache"))
    return kdbench


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "user-cache"))
    runs = tmp_path / "runs"
    write_run(runs, "minillm", 30, tasks=TASKS, changes=CHANGES)
    write_run(runs, "fkd", 40, tasks=TASKS)
    write_run(
        runs, "teacher", 20, tasks=TASKS, kind="eval", division="reference", training_seed=None
    )
    write_run(runs, "sft-init", 35, **REFERENCE)
    return runs


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_numbers_stay_on_the_screen_beside_long_labels(
    width: int, runs: Path, tmp_path: Path
) -> None:
    board = build(runs).board
    text = Terminal(width).write(board_document(board, headline=True))
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    for row in board.tables[0].cells:
        for cell, column in zip(row, board.tables[0].columns, strict=True):
            if isinstance(cell, Cell) and column.metric == "rouge_l":  # whole, each on one line
                bounds = f"[{cell.low:.1f}, {cell.high:.1f}]"
                assert f"{cell.mean:.1f}" in text and any(bounds in line for line in lines)
    plain = tmp_path / "plain"
    write_run(plain, "minillm", 30, tasks=TASKS)
    write_run(plain, "fkd", 40, tasks=TASKS)
    for name, level in (("teacher", 20), ("sft-init", 35)):
        write_run(plain, name, level, **REFERENCE)
    short = Terminal(width).write(board_document(build(plain).board, headline=True))
    assert parts(text) <= parts(short) + 2  # settings in a label cost lines rather than columns
    assert "minillm," in text and "teacher_mix=0.2" in text


def parts(text: str) -> int:
    """How many times the rows' names are written: once a part of a table."""
    return len(re.findall(r"^fkd", text, re.MULTILINE))


def test_a_table_as_a_paper_prints_it(runs: Path) -> None:
    table = leaderboard(runs, "latex").partition("\\end{table}")[0]
    lines = [line for line in table.splitlines() if line.endswith("\\\\")]
    assert lines[0] == "Method & dolly & selfinst & vicuna & sni & unni & Avg. \\\\"
    names = [line.split(" ")[0] for line in lines[1:]]
    assert names == ["teacher", "sft-init", "fkd", "minillm,"]
    assert "{[}" not in table and "[mini]" not in table.replace("(mini)", "")
    assert table.count("\\textbf") == 5 and lines[3].count("\\textbf") == 5, (
        "of averages is no test"
    )
    assert "nothing is bold" not in table.lower() and "Bold: cannot be told from the best" in table
    assert "$\\pm$" in lines[3] and "± is half of" in table.replace("$\\pm$", "±")
    whole = leaderboard(runs, "latex", spread="interval").partition("\\end{table}")[0]
    assert re.search(r"fkd & .*\{\\scriptsize \[\d", whole)
    two = leaderboard(runs, "latex", metrics=["ROUGE-L", "EM"], tasks=["dolly", "sni"])
    assert "\\multicolumn{2}{c}{dolly}" in two and "Avg." not in two


def test_a_paper_tells_protocols_apart_and_takes_no_average_over_them(tmp_path: Path) -> None:
    for method, level in (("fkd", 40.0), ("gkd", 30.0)):
        folder = RunFolder(write_run(tmp_path, method, level, tasks=["dolly", "sni"]))
        known = folder.summary.read()
        (drawn,) = (e for e in folder.evaluations() if e.task == "dolly")
        greedy, scores = write_evaluation(
            folder,
            "dolly",
            drawn.scores(),
            protocol="strict-greedy",
            decoding={"max_new_tokens": 9},
        )
        tree = known.model_dump() | {"scores": known.scores | {greedy.key: scores}}
        folder.summary.path.write_text(Summary.model_validate(tree).model_dump_json())
    table = leaderboard(tmp_path, "latex").partition("\\end{table}")[0]
    (head,) = [line for line in table.splitlines() if line.startswith("Method")]
    assert head == "Method & dolly[mini] strict & dolly[mini] strict-greedy & sni \\\\"
    assert "protocol strict and strict-greedy." in table


def test_papers_bold_is_the_boards(tmp_path: Path) -> None:
    for method, dolly, sni in (("fkd", 40, 30), ("gkd", 30, 30.2), ("sft", 29, 30.1)):
        folder = write_run(tmp_path, method, dolly)
        other = write_run(tmp_path / "sni", method, sni, tasks=["sni"])
        (place,) = other.glob("eval/*")
        place.rename(folder / "eval" / place.name)
        parts = [json.loads((at / "summary.json").read_text()) for at in (folder, other)]
        parts[0]["scores"] |= parts[1]["scores"]
        (folder / "summary.json").write_text(json.dumps(parts[0]))
        shutil.rmtree(tmp_path / "sni")
    both = leaderboard(tmp_path, "latex").partition("\\end{table}")[0]
    assert both.count("\\textbf") == 1
    assert ".05); nothing is bold where no test tells a method from the best." in both
    flat = leaderboard(tmp_path, "latex", tasks=["sni"]).partition("\\end{table}")[0]
    assert "\\textbf" not in flat and "Nothing is bold: no test tells a method" in flat
    assert "highest" not in flat


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metrics", "ROUGE-L"), None),
        (("--metrics", "rouge-l"), None),
        (("--metrics", "rogue"), "no metric is called 'rogue'"),
        (("--metrics", "acc"), "no run here has the metric acc; they have: ROUGE-L"),
        (("--tasks", "doly"), "did you mean dolly"),
    ],
)
def test_metrics_by_the_name_that_is_shown(
    options: tuple[str, ...], words: str | None, runs: Path, kdbench: Kdbench
) -> None:
    code, out, err = kdbench("leaderboard", runs, *options)
    if words is None:
        assert code == 0 and "ROUGE-L" in out and "EM" not in out
    else:
        assert code == 2 and words in err and not out


def test_a_run_ends_with_a_verdict(runs: Path) -> None:
    first, *others = verdict(build(runs))
    assert first.startswith(
        "ahead on these test rows: fkd; one training seed a method, so another "
    )
    assert first.endswith("(--seed 10, 20 and 30, then kdbench leaderboard)")
    assert any(line.startswith("note: the teacher is below sft-init: ROUGE-L 2") for line in others)
    assert any("is below sft-init, from which it started" in line for line in others)
    assert all("docs/reading-a-run.md" in line for line in others)


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_training_seed_decides_nothing(seeds: int, tmp_path: Path) -> None:
    for method, level in (("sft", 30.0), ("fkd", 40.0), ("gkd", 35.0)):
        for seed in range(seeds):
            write_run(tmp_path, method, level + seed / 10, training_seed=seed)
    write_run(tmp_path, "teacher", 60, kind="eval", division="reference", training_seed=None)
    found = outcome(list(tmp_path.iterdir()), "dolly")
    head, *rows = str(Terminal(80).write(outcome_document(found))).strip("\n").splitlines()
    assert found.best == ["fkd"] and found.decided == (seeds > 1)
    assert ("best" in head, "ahead" in head) == (seeds > 1, seeds == 1)
    assert [" yes " in row for row in rows if "fkd" in row] == [True]
    one = "ahead on these test rows: fkd; one training seed a method, so another training may turn it round"
    assert found.lines[0] == ("winner: fkd" if seeds > 1 else f"{one} (--seeds 10,20,30)")


def test_a_verdict_names_the_methods_of_too_few_seeds(tmp_path: Path) -> None:
    """Seeds of sft and fkd differ too unlike for a variance that gkd, of one seed, could borrow."""
    for first, (method, level, luck) in enumerate(
        (("sft", 30, 0.1), ("fkd", 40, 4.0), ("gkd", 80, 0.0))
    ):
        for seed in range(1 if method == "gkd" else 5):
            write_run(tmp_path, method, level + luck * seed, training_seed=10 * first + seed)
    board = build(tmp_path)
    assert [test and test.seeds for test in board.board.tables[0].tests][:1] == ["some"]
    assert verdict(board)[0].startswith(
        "ahead on these test rows: gkd; too few training seeds of gkd, "
    )


def test_methods_under_axes_of_settings() -> None:
    study = Study.model_validate(
        {
            "title": "Rates",
            "methods": ["sft", "fkd"],
            "axes": {"train.lr": [1e-4, 0.001], "init": {"as it is": ["train.init=pretrained"]}},
        }
    )
    rows = study.all_rows()
    assert [row.label for row in rows][:2] == [
        "sft, lr=0.0001, as it is",
        "sft, lr=0.001, as it is",
    ]
    assert (rows[3].method, rows[3].set) == ("fkd", ("train.lr=0.001", "train.init=pretrained"))
    with pytest.raises(ValueError, match="give rows, methods or axes"):
        Study.model_validate({"title": "x"})
    with pytest.raises(ValueError, match="name the method"):
        Study.model_validate({"title": "x", "axes": {"train.lr": [1e-3]}})


def test_settings_are_listed_and_explained(kdbench: Kdbench) -> None:
    code, out, _ = kdbench("ls", "settings", "gkd", "--json")
    rows = {row["key"]: row for row in json.loads(out)}
    assert code == 0 and rows["train.lr"]["about"] == "peak learning rate"
    assert rows["method.student_share"]["default"] == 0.5
    assert rows["train.lr"]["value"] == resolve(suite="mini", method="gkd").train.lr
    code, out, _ = kdbench("ls", "settings", "--explain", "lr")
    assert code == 0 and "--set train.lr=0.01" in out and "peak learning rate" in out
    code, _, err = kdbench("ls", "settings", "--explain", "learningrate")
    assert code == 2 and "no setting is called" in err
    code, _, err = kdbench("ls", "tasks", "gkd")
    assert code == 2 and "only settings are listed of a method" in err


def test_a_method_is_called_as_it_was_typed(tmp_path: Path, kdbench: Kdbench) -> None:
    assert kdbench("new-method", "my-loss", "--folder", tmp_path)[0] == 0
    assert (tmp_path / "my-loss.py").is_file()
    runs = tmp_path / "runs"
    write_run(runs, "my_loss", 40)  # a file that was called so
    write_run(runs, "sft", 30)
    code, out, err = kdbench("compare", "my-loss", "sft", "--runs-dir", runs)
    assert code == 0, err
    assert "my_loss" in out


def test_several_methods_are_checked_before_the_first(kdbench: Kdbench, tmp_path: Path) -> None:
    asked = ("run", "--suite", "mini-test", "--runs-dir", tmp_path / "runs")
    code, _, err = kdbench(*asked, "--method", "sft,dpdk")
    assert code == 2 and "did you mean dpkd" in err and not (tmp_path / "runs").exists()
    with pytest.raises(InputError):
        leaderboard(tmp_path / "runs")
