"""What a board says first, and which variance of seeds it is made with."""

from collections.abc import Callable
from pathlib import Path

import fakes
import numpy as np
import pytest
from board_runs import as_metric, build_board, write_run

from kdbench.harness.files.records import Missing, ModelRef
from kdbench.harness.files.run_folder import RunFolder
from kdbench.reports.board import Board, build, leaderboard
from kdbench.reports.compare import compare
from kdbench.reports.documents.board import board_document
from kdbench.reports.documents.compare import compare_document
from kdbench.reports.headline import Number, Place
from kdbench.reports.page.data import page_data
from kdbench.reports.page.standing import reference_gaps
from kdbench.reports.text.formats import write
from kdbench.reports.text.terminal import Terminal

LEVELS = {"sft": 40.0, "fkd": 50.0, "gkd": 60.0, "same": 59.8}
REFERENCE = {"kind": "eval", "division": "reference", "training_seed": None}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def runs(
        seeds: int = 5, *, student: str = "small", tasks: tuple[str, ...] = ("dolly",)
    ) -> Path:
        folder = tmp_path / "runs"
        model = ModelRef(name=student, fingerprint=student, parameters=1)
        for place, (method, level) in enumerate(LEVELS.items()):
            luck = np.linspace(-0.6, 0.6, seeds) * (1 + place / 10)  # nearly alike
            for seed in range(seeds):
                own = {"student": model, "training_seed": seed, "note": "student"}
                write_run(folder, method, level + luck[(place + seed) % seeds], tasks=tasks, **own)
        write_run(folder, "teacher", 80, tasks=tasks, **REFERENCE, student=None)
        return folder

    return runs


def places(board: Board) -> dict[str, Place]:
    (table,) = board.tables
    assert table.headline is not None
    return {place.label: place for place in table.headline.places}


def holds(number: Number | Missing, value: float) -> bool:
    return isinstance(number, Number) and number.low <= value <= number.high


def test_gap_rank_and_chances_are_those_of_the_world(make: Make) -> None:
    found = places(build_board(make()))
    assert next(iter(found)) in ("gkd", "same") and list(found)[-1] == "sft"
    assert holds(found["gkd"].gap, 50) and holds(found["fkd"].gap, 25)
    assert found["sft"].gap == Number(mean=0, low=0, high=0)
    assert found["fkd"].rank.mean == 3 and holds(found["gkd"].rank, 1.5)
    assert isinstance(found["fkd"].beats, Number) and found["fkd"].beats.mean > 99
    assert found["sft"].beats == Missing(missing="it is SFT")
    assert set(found["gkd"].alike) & set(found["same"].alike)
    assert not set(found["gkd"].alike) & set(found["fkd"].alike)


def test_two_trainings_have_seeds_of_their_own(tmp_path: Path) -> None:
    """Under one seed the method always wins; of pairs with different seeds it wins as often as it loses."""
    luck = {"sft": 0.0, "fkd": 1.0, "gkd": 1.2}
    for place, (method, ahead) in enumerate(luck.items()):
        for seed in range(5):
            own = 0.2 * ((seed + place) % 3 - 1)
            level = 40 + ahead + own + 4 * (seed - 2)
            write_run(tmp_path / "runs", method, level, training_seed=seed, note="student")
    found = places(build_board(tmp_path / "runs"))
    for method in ("fkd", "gkd"):
        beats = found[method].beats
        assert isinstance(beats, Number) and 45 < beats.low < beats.mean < 65 and beats.high < 80
        assert not set(found[method].alike) & set(found["sft"].alike), "seed by seed it is ahead"
    said = " ".join(leaderboard(tmp_path / "runs", "latex").split())
    assert "95\\% interval; differences between seeds that all methods share are left out." in said


def test_a_column_says_what_is_pooled_and_what_may_be_the_best(make: Make) -> None:
    (table,) = build_board(make()).tables
    tests = next(
        t for c, t in zip(table.columns, table.tests, strict=True) if c.metric == "rouge_l"
    )
    assert tests is not None and tests.seeds == "pooled" and tests.df == 12
    assert tests.spread == pytest.approx(0.5, abs=0.25)
    labels = {row.id: row.label for row in table.rows}
    assert {labels[row] for row in tests.worse} == {"sft", "fkd"}
    assert labels[tests.baseline] == "sft" and {labels[t.a] for t in tests.sft} == {
        "fkd",
        "gkd",
        "same",
    }
    assert all(test.p < 0.05 for test in tests.sft)
    assert (
        "no method can be told from the best in dolly[mini] EM: nothing is bold there"
        in table.notes
    )


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_few_seeds_still_decide(make: Make, seeds: int) -> None:
    board = build_board(make(seeds))
    (table,) = board.tables
    assert any(tests and len(tests.worse) == 2 for tests in table.tests)
    assert isinstance(places(board)["gkd"].beats, Number)


def test_one_seed_says_that_it_cannot(make: Make) -> None:
    board = build_board(make(1))
    found = places(board)
    assert found["gkd"].beats == Missing(missing="needs two training seeds in every column")
    assert isinstance(found["gkd"].gap, Number)
    assert any("tests are over prompts only" in note for note in board.tables[0].notes)


def test_no_chance_is_said_of_a_method_of_one_seed_beside_others(tmp_path: Path) -> None:
    """Two of one seed and one of three have nothing to lend: not 100 [100, 100]."""
    for method, levels in {"sft": [45.0], "gkd": [46.5], "fkd": [49.0, 50.0, 51.0]}.items():
        for seed, level in enumerate(levels):
            write_run(tmp_path / "runs", method, level, training_seed=seed, note="student")
    write_run(tmp_path / "runs", "teacher", 80, **REFERENCE, student=None)
    board = build_board(tmp_path / "runs")
    found = places(board)
    assert {found[name].beats for name in ("gkd", "fkd")} == {
        Missing(missing="needs two training seeds in every column")
    }
    said = write(board_document(board), "md")
    assert "one training seed of a method in 1 of 1 columns" in said


def test_costs_are_marked_where_nothing_is_better_and_cheaper(make: Make) -> None:
    found = places(build_board(make(2)))
    assert found["gkd"].cost == {"student": 1000.0, "seconds": 90.5}
    best = max(
        found.values(), key=lambda place: place.gap.mean if isinstance(place.gap, Number) else 0
    )
    assert [name for name, place in found.items() if place.front] == [best.label]


def test_a_front_is_decided_by_costs_that_methods_have_and_not_by_a_busy_machine(
    make: Make,
) -> None:
    runs = make(3)
    spent: dict[str, list[dict[str, float]]] = {
        "gkd": [{"wall_s": 100.0}, {"wall_s": 110.0}, {"wall_s": 300.0}],
        "fkd": [{"wall_s": 60.0, "tokens.student": 999}] * 3,
        "sft": [{"wall_s": 10.0, "tokens.student": 900}] * 3,
    }
    for folder in sorted(runs.iterdir()):
        run = RunFolder(folder).summary.read().run
        if changed := spent.get(run.method):
            costs = {f"cost.train.{name}": n for name, n in changed[run.training_seed or 0].items()}
            fakes.edit(folder / "summary.json", costs)
    board = build_board(runs)
    found = places(board)
    assert found["gkd"].cost["seconds"] == 110.0
    first, other = ("gkd", "same") if next(iter(found)) == "gkd" else ("same", "gkd")
    assert found[first].front or found[other].front
    assert found["fkd"].front == [], (
        "0.1% fewer tokens, and a time that seeds of one method differ by"
    )
    assert found["sft"].front == ["student", "seconds"]
    said = write(board_document(board), "md")
    assert "seeds of one method differ up to ×3\n" in said and "times within ×3)" in said


def test_page_rows_have_the_costs_and_gaps_of_the_headline(make: Make) -> None:
    """A cost that a run does not have is 0, and a task that does not count counts for no row."""
    runs = make(2)
    model = ModelRef(name="small", fingerprint="small", parameters=1)
    own = {"student": model, "training_seed": 0, "tasks": ("dolly", "vicuna")}
    for method in ("gkd", "fkd"):
        write_run(runs, method, 60, **own, note="teacher", settings="asked more")
    built = build([runs])
    (page,) = page_data(built, [[]], 10**6)["tables"]
    costs = {row["label"]: row["cost"] for row in page["rows"]}
    assert costs["sft"]["teacher"] == [0.0, "0"] and "teacher" not in costs["teacher"]
    (table,) = built.board.tables
    assert table.headline is not None and table.headline.few
    assert reference_gaps(table) == {"teacher": 100.0}


def test_one_more_task_of_a_few_methods_leaves_nobody_out(make: Make) -> None:
    runs = make(2)
    model = ModelRef(name="small", fingerprint="small", parameters=1)
    own = {"student": model, "training_seed": 0, "note": "student", "tasks": ("dolly", "vicuna")}
    for method in ("gkd", "fkd"):
        write_run(runs, method, 60, **own, settings="asked more")
    board = build_board(runs)
    (table,) = board.tables
    assert table.headline is not None and len(places(board)) == 6
    assert len(table.headline.columns) == 1 and len(table.headline.few) == 1
    assert (
        "not counted, as less than two thirds of the methods are in it with all their students: vicuna"
        in write(board_document(board), "md").replace("\\", "")
    )


def test_neither_does_one_of_one_student_of_most_methods(tmp_path: Path) -> None:
    """It had counted, and the methods that were not asked it fell out."""
    for method, level in LEVELS.items():
        for seed in range(2):
            more = ("vicuna",) if method != "sft" and seed == 0 else ()
            own = {"training_seed": seed, "note": "student", "tasks": ("dolly", *more)}
            write_run(tmp_path / "runs", method, level + seed, **own)
    board = build_board(tmp_path / "runs")
    (table,) = board.tables
    assert set(places(board)) == set(LEVELS)
    assert table.headline is not None and len(table.headline.few) == 1


@pytest.mark.parametrize("bounds", [{"low": 0, "high": 1}, {}])
def test_a_share_counts_as_much_as_percent_and_what_has_no_scale_nothing(
    make: Make, bounds: dict[str, float]
) -> None:
    runs = make(2, tasks=("dolly", "squad"))
    (table,) = build_board(runs).tables
    assert table.headline is not None
    gaps = [place.gap for place in table.headline.places]
    for folder in runs.iterdir():
        as_metric(folder, "squad", "f1_of_squad", 0.01, **bounds)
    (shown,) = build_board(runs).tables
    assert shown.headline is not None
    if bounds:
        for before, after in zip(gaps, shown.headline.places, strict=True):
            assert isinstance(before, Number) and isinstance(after.gap, Number)
            assert after.gap.mean == pytest.approx(before.mean, abs=0.01)
    else:
        assert shown.headline.columns == ["dolly[mini]"]
        said = "not counted where methods stand: its scale is not known: squad[mini] f1_of_squad"
        assert said in shown.notes


def test_several_pairs_have_one_headline_over_all(make: Make) -> None:
    make(2)
    board = build_board(make(2, student="tiny"))
    (over,) = board.overall
    assert over.title == "mini: over 2 pairs of models" and len(over.columns) == 2
    assert [place.label for place in over.places][-2:] == ["fkd", "sft"]
    assert board_document(board).sections[0].title == over.title


def test_without_sft_or_teacher_the_gap_says_why(tmp_path: Path) -> None:
    for method in ("a", "b"):
        for seed in (1, 2, 3):
            write_run(tmp_path, method, 40 + seed, training_seed=seed)
    found = places(build_board(tmp_path))
    assert found["a"].gap == Missing(missing="no row of SFT") and found["a"].rank.mean in (1, 2)


@pytest.mark.parametrize("format", ["md", "csv", "latex", "html"])
def test_the_headline_leads_every_format(make: Make, format: str) -> None:
    text = leaderboard(make(3), format)  # type: ignore[arg-type]
    if format == "csv":
        assert "gap_closed" in text and "beats_sft" in text and "p_best" in text.splitlines()[0]
    elif format == "html":
        assert '"quality":"gap closed, %"' in text
    else:
        board = text.partition("\\end{table}")[2] or text  # LaTeX begins with a paper's table
        assert board.index("mean rank") < board.index("ROUGE-L")


def test_eighty_columns_hold_the_headline(make: Make) -> None:
    text = Terminal(80).write(board_document(build_board(make(3)), headline=True))
    assert max(map(len, text.splitlines())) <= 80
    (head,) = [line for line in text.splitlines() if line.startswith("method") and "rank" in line]
    assert head.endswith("beats SFT, %"), "one table, not parts"


def test_compare_pools_over_the_methods_beside(make: Make) -> None:
    runs = make(3)
    sides = [[p for p in runs.iterdir() if f'"method":"{m}"' in (p / "summary.json").read_text()]
             for m in ("gkd", "fkd")]  # fmt: skip
    alone, beside = compare(*sides), compare(*sides, beside=[runs])
    assert beside.headline and [p.label for p in beside.headline.places] == ["gkd", "fkd", "sft"]
    rouge = [found.columns[0] for found in (alone, beside)]
    assert [column.pooled_over for column in rouge] == [2, 4]
    assert rouge[0].difference == rouge[1].difference
    shown = write(compare_document(beside), "terminal")
    assert "variance between training seeds: pooled over 4 rows" in shown
