"""Leaderboards from small run folders written by hand."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import fakes
import numpy as np
import pytest
from board_runs import as_metric, build_board
from evaluations import write_evaluation

import kdbench
from kdbench.harness.config import with_precision
from kdbench.harness.errors import CheckFailed, InputError
from kdbench.harness.files.records import (
    Estimate,
    Manifest,
    Missing,
    ModelRef,
    RunCard,
    ScoreRow,
    StageCost,
    Summary,
)
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.identity import Contents, run_parts, settings_id
from kdbench.harness.resolve import resolve, training_changes
from kdbench.reports.board import DISPUTED, Board, Table, build, leaderboard
from kdbench.reports.columns import Cell
from kdbench.reports.compare import compare
from kdbench.reports.documents.board import board_document
from kdbench.reports.documents.compare import compare_document
from kdbench.reports.rows import Row
from kdbench.reports.run.report import write_report
from kdbench.reports.runs import prompt_scores, scores
from kdbench.reports.text.formats import write
from kdbench.reports.text.terminal import Terminal

PROMPTS = 40
TEACHER = ModelRef(name="big", fingerprint="b" * 16, parameters=1_000_000)
STUDENT = ModelRef(name="small", fingerprint="s" * 16, parameters=100_000)
Make = Callable[..., Path]


def render_terminal(board: Board, width: int = 100, *, colour: bool = False) -> str:
    return Terminal(width, colour=colour).write(board_document(board, headline=True))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "user-cache"))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def make(runs: Path) -> Make:
    def make_run(
        method: str,
        seed: int | None = 1,
        *,
        level: float = 30.0,
        tasks: Sequence[str] = ("dolly",),
        edition: str = "mini",
        protocol: str = "strict",
        prompts: range = range(PROMPTS),
        data: str = "d",
        batch_size: int = 8,
        **card: object,
    ) -> Path:
        number = len(list(runs.glob("*"))) if runs.exists() else 0
        folder = runs / f"{''.join(filter(str.isalnum, method))}-small-{number:012x}"
        scores = {}
        for task in tasks:
            rows = score_rows(method, seed, level, prompts)
            how = {"edition": edition, "protocol": protocol, "data_sha256": data}
            evaluation, found = write_evaluation(
                RunFolder(folder), task, rows, batch_size=batch_size, **how
            )
            scores[evaluation.key] = found
        fields: dict[str, object] = {
            "id": f"{number:012x}",
            "kind": "run",
            "method": method,
            "suite": "mini",
            "regime": "matched",
            "teacher": TEACHER,
            "student": STUDENT,
            "training_seed": seed,
            "division": "closed",
        }
        summary = Summary(run=RunCard.model_validate(fields | card), scores=scores)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(summary.model_dump_json())
        return folder

    return make_run


def score_rows(method: str, seed: int | None, level: float, prompts: range) -> list[ScoreRow]:
    rng = np.random.default_rng([seed or 0, *method.encode()])
    hard = np.random.default_rng(7).normal(0, 10, 200)
    rows = []
    for i in prompts:
        rouge = (level + hard[i] + rng.normal(0, 2, 2)).clip(0, 100)
        rows.append(
            ScoreRow(
                doc_id=i,
                prompt_hash=f"{i:016x}",
                reference_tokens=5,
                seeds=[10, 20],
                metrics={
                    "rouge_l": rouge.tolist(),
                    "exact_match": [0.0, 0.0],
                    "response_tokens": [9.0, 11.0],
                },
            )
        )
    return rows


def reference(make: Make, method: str, level: float, **more: object) -> Path:
    return make(method, None, level=level, kind="eval", division="reference", **more)


@pytest.fixture
def board_of(runs: Path, tmp_path: Path) -> Callable[..., Board]:
    return lambda **options: build_board(runs, cache=tmp_path / "cache", **options)


def cell(table: Table, label: str, metric: str = "rouge_l", heading: str | None = None) -> object:
    row = next(i for i, row in enumerate(table.rows) if row.label == label)
    column = next(
        i
        for i, column in enumerate(table.columns)
        if column.metric == metric and heading in (None, column.heading)
    )
    return table.cells[row][column]


def bold(table: Table) -> set[str]:
    return {
        row.label
        for row, cells in zip(table.rows, table.cells, strict=True)
        for c in cells
        if isinstance(c, Cell) and c.bold
    }


def test_references_come_first_and_never_compete(
    make: Make, board_of: Callable[..., Board]
) -> None:
    make("sft", level=20)
    make("dpkd", level=40)
    reference(make, "teacher", 60, teacher=None, student=TEACHER)
    reference(make, "truth", 90, teacher=None, student=None)
    reference(make, "sft-init", 10, teacher=None)
    (table,) = board_of().tables
    assert [row.label for row in table.rows] == ["truth", "teacher", "sft-init", "dpkd", "sft"]
    assert bold(table) == {"dpkd"}
    assert table.title == "mini: big → small"


def test_no_bold_without_significance(make: Make, board_of: Callable[..., Board]) -> None:
    for method in ("a", "b", "c"):
        make(method, level=30)
    (table,) = board_of().tables
    tests = [column for column in table.tests if column]
    assert tests and all(pair.p > 0.05 for column in tests for pair in column.pairs)
    assert not bold(table)
    assert "no method can be told from the best in any column" in render_terminal(
        Board(tables=[table]), width=100
    )


def test_bold_is_the_best_and_those_not_significantly_worse(
    make: Make, board_of: Callable[..., Board]
) -> None:
    make("a", level=30)
    make("b", level=30.2)
    make("c", level=20)
    (table,) = board_of().tables
    assert bold(table) == {"a", "b"}
    (tests,) = [column for column in table.tests if column and column.worse]
    assert len(tests.pairs) == 3 and {test.p for test in tests.best} >= {1.0}


def test_one_method_alone_is_not_bold(make: Make, board_of: Callable[..., Board]) -> None:
    make("dpkd")
    (table,) = board_of().tables
    assert not bold(table)
    assert "training variance unmeasured" in table.signature


def test_training_seeds_make_one_row_with_a_t_interval(
    make: Make, board_of: Callable[..., Board]
) -> None:
    folders = [make("dpkd", seed, level=30 + seed) for seed in (1, 2, 3)]
    (table,) = board_of().tables
    (row,) = table.rows
    assert row.training_seeds == [1, 2, 3]
    value = cell(table, "dpkd")
    assert isinstance(value, Cell)
    singles = []
    for folder in folders:
        summary = Summary.model_validate_json((folder / "summary.json").read_text())
        estimate = next(iter(summary.scores.values())).metrics["rouge_l"]
        assert isinstance(estimate, Estimate)
        singles.append(estimate)
    assert value.mean == pytest.approx(np.mean([s.mean for s in singles]), abs=1e-5)
    t_half = 4.302652729911275 * np.std([s.mean for s in singles], ddof=1) / 3**0.5
    assert value.high - value.mean > t_half
    assert "unmeasured" not in table.signature
    assert "×3" in render_terminal(Board(tables=[table]), width=120)


def test_runs_with_another_configuration_are_another_row(
    make: Make, board_of: Callable[..., Board]
) -> None:
    for seed in (1, 2):
        make("dpkd", seed, settings="lr 1e-3")
        make("dpkd", seed, settings="lr 1e-4")
    (table,) = board_of().tables
    assert [len(row.training_seeds) for row in table.rows] == [2, 2]
    assert len({row.label for row in table.rows}) == 2


def test_what_leaves_a_student_as_it_is_makes_no_row(
    make: Make, board_of: Callable[..., Board]
) -> None:
    """Limits of memory and folders of another machine; the files there are compared by content."""

    def settings(*assignments: str) -> str:
        config = resolve(suite="mini", method="dpkd", assignments=assignments)
        contents = Contents(teacher="t", student="s", train="d", dev="e", text="x")
        return settings_id(run_parts(with_precision(config, "fp32"), contents), "small")

    make("dpkd", 1, settings=settings("pair.teacher=/here/big", "train.micro_tokens=64"))
    moved = settings("pair.teacher=/there/big/", "train.teacher_memory_gb=1.0", "train.seed=2")
    make("dpkd", 2, settings=moved)
    (table,) = board_of().tables
    assert [row.training_seeds for row in table.rows] == [[1, 2]]


def test_labels_say_what_was_changed(make: Make, board_of: Callable[..., Board]) -> None:
    words = ["--set", "method.teacher_mix=0", "--set=train.lr=1", "--set", "tasks.limit=2"]
    for extra in (words, []):
        argv = ["kdbench", "run", "--set", "train.seed=3", *extra]
        make("a", settings=str(extra), changes=list(training_changes(argv)))
    (table,) = board_of().tables
    assert [row.label for row in table.rows] == ["a", "a, teacher_mix=0, train.lr=1"]
    assert [row.changes for row in table.rows] == [[], ["teacher_mix=0", "train.lr=1"]]


def test_a_seed_once_more_is_no_second_sample(
    make: Make, board_of: Callable[..., Board], runs: Path
) -> None:
    """It stands apart, and takes neither its method's other seeds nor the baseline away."""
    for method in ("sft", "dpkd", "fkd"):
        for seed in (1, 2, 3):
            make(method, seed)
    again = [make("sft", 2, level=90), make("dpkd", 1, tasks=("dolly", "sni"))]
    (table,) = board_of().tables
    rows = {row.label: row for row in table.rows}
    assert list(rows) == ["dpkd", "dpkd (seed 1 again)", "fkd", "sft", "sft (seed 2 again)"]
    assert [row.training_seeds for row in rows.values()] == [
        [1, 2, 3],
        [1],
        [1, 2, 3],
        [1, 2, 3],
        [2],
    ]
    runs_of = {label: set(row.runs) for label, row in rows.items()}
    ids = [RunFolder(folder).summary.read().run.id for folder in again]
    assert ids[0] in runs_of["sft (seed 2 again)"], "of equals the lower id counts"
    assert ids[1] in runs_of["dpkd"], "the one that was evaluated most counts"
    (said,) = [note for note in table.notes if "no second sample" in note]
    assert said.endswith("stands: dpkd (seed 1 again), sft (seed 2 again)")
    assert {t.baseline for t in table.tests if t is not None} == {rows["sft"].id}
    sides = [[p for p in runs.iterdir() if p.name.startswith(name)] for name in ("dpkd", "fkd")]
    found = compare(*sides)
    assert found.columns[0].seeds_measured and "dpkd (seed 1 again), run" in found.left_out[0]


def test_one_seed_twice_has_one_row_that_stands_for_it(
    make: Make, board_of: Callable[..., Board]
) -> None:
    make("sft", 1)
    make("sft", 1)
    (table,) = board_of().tables
    assert [len(row.runs) for row in table.rows] == [1, 1]
    assert {t.baseline for t in table.tests if t is not None} == {table.rows[0].id}
    assert [row.label for row in table.rows] == ["sft", "sft (seed 1 again)"]


def test_no_column_mixes_editions_protocols_or_data(
    make: Make, board_of: Callable[..., Board]
) -> None:
    make("a")
    make("b", edition="full")
    make("c", protocol="minillm-compat")
    make("d", data="other")
    make("e", batch_size=64)
    (table,) = board_of(metrics=["rouge_l"]).tables
    assert len(table.columns) == 4
    together = [
        {
            row.label
            for row, cells in zip(table.rows, table.cells, strict=True)
            if isinstance(cells[i], Cell)
        }
        for i in range(4)
    ]
    assert {"a", "e"} in together
    assert len({column.heading for column in table.columns}) == 4
    assert cell(table, "b", heading="dolly[full] strict") != Missing(missing="not evaluated")


def test_missing_cells_carry_reasons(make: Make, board_of: Callable[..., Board]) -> None:
    make("a", tasks=("dolly", "selfinst"))
    folder = make("b")
    summary = json.loads((folder / "summary.json").read_text())
    key = next(iter(summary["scores"]))
    summary["scores"][key]["metrics"]["exact_match"] = {"missing": "out of memory"}
    (folder / "summary.json").write_text(json.dumps(summary))
    (table,) = board_of().tables
    assert cell(table, "b", "exact_match") == Missing(missing="out of memory")
    assert cell(table, "b", heading="selfinst[mini]") == Missing(missing="not evaluated")
    for format in ("terminal", "md", "latex"):
        text = leaderboard(folder.parent, format)
        assert "not evaluated" in text
        assert "out of memory" in text


def test_partial_training_seeds_are_said(make: Make, board_of: Callable[..., Board]) -> None:
    make("a", 1, tasks=("dolly", "selfinst"))
    make("a", 2)
    (table,) = board_of().tables
    value = cell(table, "a", heading="selfinst[mini]")
    assert isinstance(value, Cell)
    assert value.note == "1 of 2 training seeds (not evaluated)"


def test_pairs_use_shared_prompts_only(make: Make, board_of: Callable[..., Board]) -> None:
    make("a", level=40)
    make("b", level=20, prompts=range(20, 60))
    make("c", level=20, prompts=range(100, 140))
    (table,) = board_of(metrics=["rouge_l"]).tables
    (tests,) = table.tests
    assert tests is not None and tests.n_prompts == 20 and len(tests.pairs) == 1
    assert any("share no prompts" in note for note in table.notes)
    assert bold(table) == {"a"}


@pytest.mark.parametrize("format", ["terminal", "md", "csv", "latex", "json", "html"])
def test_the_same_runs_give_the_same_bytes(
    make: Make, runs: Path, tmp_path: Path, format: str
) -> None:
    for method in ("a", "b"):
        for seed in (1, 2, 3):
            make(method, seed, level=20 + 5 * (method == "b"))
    reference(make, "teacher", 50, student=TEACHER)
    out = tmp_path / "board"
    text = leaderboard(runs, format, out=out, cache=tmp_path / "one")
    moved = tmp_path / "elsewhere"
    shutil.copytree(runs, moved)
    folders = sorted(moved.iterdir(), reverse=True)
    assert leaderboard(folders, format, cache=tmp_path / "two") == text
    assert leaderboard(runs, format, cache=tmp_path / "one", out=out, verify=True) == text
    out.write_text(text + " ")
    with pytest.raises(CheckFailed, match="is not what its runs give now"):
        leaderboard(runs, format, out=out, verify=True, cache=tmp_path / "one")


def test_paired_tests_are_remembered_by_content(
    make: Make, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("a", level=40)
    folder = make("b", level=20)
    cache = tmp_path / "cache"
    first = build_board(runs, cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr("kdbench.reports.measured._tested", None)
        assert build_board(runs, cache=cache) == first
    scores = next(folder.glob("eval/*/scores.jsonl"))
    scores.write_text(
        scores.read_text().replace('"response_tokens":[9.0', '"response_tokens":[8.0')
    )
    assert build_board(runs, cache=cache) == first
    assert len(list(cache.iterdir())) == 2


def test_csv_and_json_hold_every_cell(make: Make, runs: Path) -> None:
    make("a", tasks=("dolly", "selfinst"))
    make("b")
    rows = list(csv.DictReader(io.StringIO(leaderboard(runs, "csv"))))
    cells = [row for row in rows if row["evaluation"]]
    assert len(cells) == 2 * 2 * 3
    assert {row["reason"] for row in cells} == {"", "not evaluated"}
    assert {row["metric"] for row in rows if not row["evaluation"]} >= {"gap_closed", "mean_rank"}
    assert Board.model_validate_json(leaderboard(runs, "json")) == build_board(runs)


def test_text_from_users_cannot_break_a_table(make: Make, runs: Path) -> None:
    make("a|b<script>", variant="50% & $x_1$ `c` \\d\n**x**")
    markdown = leaderboard(runs, "md", metrics=["rouge_l", "exact_match"])
    assert "<script>" not in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    latex = leaderboard(runs, "latex")
    assert "50\\% \\& \\$x\\_1\\$" in latex
    assert "\\textbackslash{}d" in latex


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_terminal_lines_fit(make: Make, runs: Path, width: int) -> None:
    for method in ("minillm-code", "dpkd"):
        make(method, tasks=("dolly", "selfinst"))
    text = render_terminal(build_board(runs), width=width)
    body = text[: text.index("[95% interval]")]
    assert max(map(len, body.splitlines())) <= width
    assert "length" not in body


def test_colour_is_asked_for(make: Make, runs: Path) -> None:
    make("dpkd")
    board = build_board(runs)
    assert "\x1b" not in render_terminal(board, width=80)
    assert "\x1b[" in render_terminal(board, width=80, colour=True)


def test_each_pair_and_suite_has_its_table(make: Make, board_of: Callable[..., Board]) -> None:
    other = ModelRef(name="tiny", fingerprint="t", parameters=10)
    make("a")
    make("a", student=other)
    make("a", suite="full")
    reference(make, "teacher", 50, teacher=None, student=TEACHER)
    reference(make, "init", 5, teacher=None, student=other)
    tables = board_of().tables
    assert [table.title for table in tables] == [
        "full: big → small",
        "mini: big → small",
        "mini: big → tiny",
    ]
    assert [[row.label for row in table.rows] for table in tables] == [
        ["a"],
        ["teacher", "a"],
        ["teacher", "init", "a"],
    ]


def test_data_frames_hold_every_row_of_every_table(make: Make, runs: Path) -> None:
    """Of teachers of another name, of another content, and of evaluations under another protocol."""
    larger = TEACHER.model_copy(update={"name": "larger", "fingerprint": "l" * 16})
    again = TEACHER.model_copy(update={"fingerprint": "c" * 16})
    for teacher in (TEACHER, larger, again):
        make("a", teacher=teacher)
    make("b", protocol="strict-greedy")
    board = kdbench.leaderboard(runs, metrics="rouge_l")
    assert list(board.table.index.names) == ["suite", "teacher", "student", "row"]
    teachers = [index[1] for index in board.table.index if index[3] == "a"]
    assert sorted(teachers) == ["big bbbbbbbb", "big cccccccc", "larger"]
    assert set(board.scores["protocol"]) == {"strict", "strict-greedy"}
    assert board.scores["evaluation"].nunique() == 2 and len(board.scores) == 4


def test_the_teacher_of_another_comparison_has_a_table_of_its_own(
    make: Make, board_of: Callable[..., Board]
) -> None:
    weak = TEACHER.model_copy(update={"fingerprint": "weak"})  # with the same name and size
    start = STUDENT.model_copy(update={"fingerprint": "start"})
    make("a")
    reference(make, "truth", 90, teacher=None, student=None)
    reference(make, "teacher", 20, teacher=None, student=weak)
    reference(make, "teacher", 60, teacher=None, student=TEACHER)
    reference(make, "sft-init", 5, teacher=TEACHER, student=start)
    reference(make, "sft-init", 6, teacher=weak, student=start)
    other, table = board_of().tables
    assert [row.label for row in table.rows] == ["truth", "teacher", "sft-init", "a"]
    assert [row.label for row in other.rows] == ["teacher", "sft-init"]
    assert cell(table, "teacher").mean > 50  # type: ignore[attr-defined]


def test_runs_that_were_only_trained_are_one_line_and_no_rows(make: Make, runs: Path) -> None:
    make("a")
    for trial in (1, 2):
        make("a", tasks=(), settings=f"rate {trial}")
    board = build_board(runs)
    assert [row.label for table in board.tables for row in table.rows if not row.reference] == ["a"]
    assert board.left_out == ["2 runs: trained, and nothing was asked (kdbench eval RUN asks)"]


def test_unfinished_runs_are_named_and_errors_are_sentences(make: Make, runs: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        build_board(runs)
    runs.mkdir()
    with pytest.raises(InputError, match="no finished run"):
        build_board(runs)
    make("a")
    (runs / "b-small-1").mkdir()
    (runs / "b-small-1" / "config.json").write_text("{}")
    board = build_board(runs)
    assert board.left_out == ["b-small-1: not finished"]
    assert "b-small-1" in render_terminal(board)
    (runs / "b-small-1" / "summary.json").write_text('{"run": 3}')
    (left_out,) = build_board(runs).left_out
    assert left_out.startswith("b-small-1: summary.json is no summary: run: ")
    with pytest.raises(InputError, match=r"summary\.json is no summary: run: ") as caught:
        build_board(runs / "b-small-1")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="unknown format"):
        leaderboard(runs, "pdf")  # type: ignore[arg-type]


def test_a_run_that_cannot_be_read_stops_no_board(make: Make, runs: Path) -> None:
    make("a")
    old, torn, odd = make("b"), make("c"), make("d")
    fakes.edit(old / "summary.json", {"schema_version": 1})
    (torn / "summary.json").write_text('{"run": ')
    (odd / "config.json").write_text("[1")
    (odd / "prepare.json").write_text("{}")
    board = build_board(runs)
    (table,) = board.tables
    assert [row.label for row in table.rows] == ["a"]
    first, second, third = board.left_out
    assert first.startswith(f"{old.name}: summary.json has schema 1, this kdbench reads 2; ")
    assert second.startswith(f"{torn.name}: summary.json is not valid JSON")
    assert third.startswith(f"{odd.name}: config.json is not valid JSON")
    assert str(runs) not in first + second + third, "the same bytes wherever the runs lie"
    with pytest.raises(InputError, match="schema 1") as caught:
        build_board([old, torn])
    assert "\n" not in str(caught.value)


def test_a_metric_of_others_is_shown_as_its_summary_says(make: Make, runs: Path) -> None:
    card = {"label": "Our own", "better": 1, "digits": 3, "headline": True}
    for method, mean in (("a", 0.25), ("b", 0.5)):
        path = make(method) / "summary.json"
        (key,) = json.loads(path.read_text())["scores"]
        value = {"mean": mean, "low": mean, "high": mean, "n_prompts": PROMPTS}
        fakes.edit(path, {f"scores.{key}.metrics.own": value, f"scores.{key}.cards": {"own": card}})
    text = leaderboard(runs)
    assert "Our own" in text and "0.250 [0.250, 0.250]" in text


def test_nobodys_word_turns_a_column_round(make: Make, runs: Path, tmp_path: Path) -> None:
    """Who contradicts the others on what is better decides nothing, wherever the run stands."""
    for method, level in (("sft", 30.0), ("gkd", 50.0), ("fkd", 40.0)):
        as_metric(make(method, level=level), "dolly", "own", 0.01, low=0, high=1)
    before = build_board(runs, cache=tmp_path / "cache").tables[0]
    assert before.headline is not None and before.headline.places[0].label == "gkd"
    stranger = make("a-stranger", level=20.0)
    as_metric(stranger, "dolly", "own", 0.01, better=-1, low=0, high=1)
    said = f"{DISPUTED}: own"
    boards = [build_board(runs, cache=tmp_path / "cache").tables[0] for _ in range(3)]
    assert all(said in table.notes and table.headline is None for table in boards)
    assert len({json.dumps([row.model_dump() for row in table.rows]) for table in boards}) == 1
    shutil.rmtree(stranger)
    assert build_board(runs, cache=tmp_path / "cache").tables[0] == before
    # bounds that hold all that runs say, and none where one says of none; what is remembered knows it
    one = next(runs.iterdir()) / "summary.json"
    (key,) = json.loads(one.read_text())["scores"]
    fakes.edit(one, {f"scores.{key}.cards.own.high": None})
    unknown = build_board(runs, cache=tmp_path / "cache").tables[0]
    assert unknown.headline is None and said not in unknown.notes
    assert unknown.tests == before.tests


ABSURD: dict[str, tuple[str, str]] = {
    "a": ('"mean":30', '"mean":1e999'),
    "b": ('"mean":30', '"mean":-1e99'),
    "c": ('"wall_s":1.0', '"wall_s":NaN'),
    "d": ('"probes":{}', '"probes":{"x":{"loss":[1]}}'),
    "e": ('"probes":{}', '"probes":{"x":{"loss":{"loss":' + "9" * 400 + "}}}"),
    "f": ('"judge":{}', '"judge":{"gpt":{"evaluations":{"x":"good"}}}'),
    "g": ('"cards":{}', '"cards":{"own":{"label":"own","low":1,"high":1}}'),
    "h": ('"cards":{}', '"cards":{"own":{"label":"own","digits":999999999}}'),
}


def test_absurd_numbers_leave_their_run_out(make: Make, runs: Path) -> None:
    make("z")
    for method, (there, absurd) in ABSURD.items():
        path = make(method) / "summary.json"
        text = re.sub(r'"mean":30[.0-9]*', '"mean":30', path.read_text())
        text = re.sub(r'"mean":[.0-9]+', '"mean":30', text).replace(
            '"cost":{}', '"cost":{"train":{"wall_s":1.0}}'
        )
        assert there in text
        path.write_text(text.replace(there, absurd, 1))
    built = build([runs])
    (table,) = built.board.tables
    assert [row.label for row in table.rows] == ["z"]
    assert [why.partition("-")[0] for why in built.board.left_out] == list(ABSURD)
    assert all("\n" not in why for why in built.board.left_out)
    # a report of somebody's probe in no shape of ours is a value that is missing
    odd = make("y") / "summary.json"
    (key,) = json.loads(odd.read_text())["scores"]
    reports = {"exposure": {"prompts": "x", "at_length": {"R": [1], "ex_acc_err": {"value": "x"}}}}
    fakes.edit(odd, {"probes": {key: reports}})
    assert "exposure" not in str(build_board(runs).left_out)


def test_a_line_that_kdbench_did_not_write_is_refused(make: Make) -> None:
    (evaluation,) = RunFolder(make("a")).evaluations()
    assert len(scores(evaluation)) == PROMPTS
    assert list(scores(evaluation, ["3:0000000000000003"])) == ["3:0000000000000003"]
    with open(evaluation.scores_file, "a") as file:
        file.write('{"doc_id": 9, "prompt_hash": "torn')
    assert len(scores(evaluation)) == PROMPTS, "what a kill left is no line"
    with open(evaluation.scores_file, "a") as file:
        file.write("\n")
    with pytest.raises(InputError, match="a line that kdbench did not write"):
        scores(evaluation)


@pytest.mark.parametrize(
    ("there", "absurd"),
    [
        ('"rouge_l":[', '"rouge_l":[1e999,'),
        ('"rouge_l":[', f'"rouge_l":[{"9" * 400},'),
        ('"reference_tokens":5', '"reference_tokens":"few"'),
    ],
)
def test_absurd_scores_are_one_sentence(make: Make, there: str, absurd: str) -> None:
    for method in ("a", "b"):
        (evaluation,) = RunFolder(make(method)).evaluations()
    text = evaluation.scores_file.read_text()
    assert there in text
    evaluation.scores_file.write_text(text.replace(there, absurd))
    with pytest.raises(InputError, match="has a row that is no score"):
        prompt_scores(evaluation)


def test_compare_two_rows(make: Make) -> None:
    one = [make("a", seed, level=30 + seed) for seed in (1, 2, 3)]
    two = reference(make, "teacher", 50, student=TEACHER)
    result = compare(one, two, metrics=["rouge_l"])
    (column,) = result.columns
    assert (result.a, result.b) == ("a", "teacher")
    assert column.seeds_measured
    assert column.difference == pytest.approx(column.a - column.b)
    assert column.low < column.difference < column.high < 0
    assert column.p < 0.01
    assert (column.wins, column.ties, column.losses) == (0, 0, PROMPTS)
    gaps = [abs(prompt.a - prompt.b) for prompt in column.most]
    assert gaps == sorted(gaps, reverse=True)
    assert len(gaps) == 10
    assert "0/0/40" in write(compare_document(result), "terminal")
    with pytest.raises(InputError, match="2 different rows"):
        compare([one[0], two], two)
    with pytest.raises(InputError, match="40 and 40, 0 in common"):
        compare(one[0], make("far", prompts=range(100, 140)))


def test_report_shows_scores_cost_and_how_to_reproduce(make: Make, tmp_path: Path) -> None:
    def report(folder: Path) -> str:
        write_report(folder, tmp_path / "out")
        return (tmp_path / "out" / "report.md").read_text()

    folder = make("dpkd")
    (folder / "config.json").write_text('{"tasks": {"names": ["dolly"]}}')
    path = folder / "summary.json"
    summary = Summary.model_validate_json(path.read_text()).model_copy(
        update={"cost": {"train": StageCost(wall_s=12.3, tokens={"student": 1000})}}
    )
    path.write_text(summary.model_dump_json())
    text = report(folder)
    assert "# dpkd on mini" in text
    assert "| train | 12.3 s | student 1,000 |" in text
    manifest = Manifest(
        kdbench="0.1.0",
        git_commit="c" * 40,
        git_diff_sha256=None,
        argv=["kdbench", "run", "--method", "dpkd", "--set", "note=a b"],
        config={"note": "``` <b>"},
        versions={"torch": "2"},
        hardware={"cpu": "x"},
        data={"train": {"sha256": "e" * 64, "rows": 3}},
        tokenizer_sha256="f" * 64,
        teacher=TEACHER,
        init=None,
        generation={},
        seeds={},
        cost={},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    text = report(folder)
    assert "kdbench run --method dpkd --set 'note=a b'" in text
    assert '````json\n{\n "note": "``` <b>"\n}\n````' in text
    with pytest.raises(InputError):
        report(folder / "nothing")


def test_rows_know_whether_they_are_references() -> None:
    fields = {
        "id": "x", "label": "x", "method": "x", "variant": "", "regime": "matched", "student": "",
        "training_seeds": [], "runs": [],
    }  # fmt: skip
    assert Row.model_validate(fields | {"kind": "eval", "division": "reference"}).reference
    assert not Row.model_validate(fields | {"kind": "run", "division": "closed"}).reference
