"""Rank agreement on made data, where the true ranks are known."""

from pathlib import Path

import numpy as np
import pytest
from board_runs import write_run

from kdbench.harness.files.records import ModelRef
from kdbench.harness.stats import Array
from kdbench.reports.agreement import Agreement, agreement, kendall
from kdbench.reports.board import build
from kdbench.reports.documents.board import board_document
from kdbench.reports.text.formats import write


def measured(true_2M: Array, noise: float, rng: np.random.Generator) -> Agreement:
    score = true_2M + noise * rng.standard_normal(true_2M.shape)
    draws = score[:, None] + noise * rng.standard_normal((2, 400, true_2M.shape[1]))
    found = agreement("a and b", [f"m{i}" for i in range(true_2M.shape[1])], score, draws)
    assert found is not None
    return found


def test_tau_counts_pairs() -> None:
    up = np.arange(5.0)
    assert kendall(up, up) == 1
    assert kendall(up, -up) == -1
    assert kendall(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(1 / 3)
    tied = np.array([1.0, 1, 2, 3])  # tau-b: 5 of sqrt(5 * 6) pairs
    assert kendall(tied, np.arange(4.0)) == pytest.approx(5 / np.sqrt(30))
    assert kendall(np.zeros(4), np.arange(4.0)) == 0


@pytest.mark.parametrize("alike", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_interval_holds_the_tau_of_the_true_scores(alike: float, noise: float) -> None:
    rng = np.random.default_rng(7)
    trials, methods, held = 20, 10, 0
    for _ in range(trials):
        one, other = rng.standard_normal((2, methods))
        true = np.stack([one, alike * one + np.sqrt(1 - alike**2) * other])
        found = measured(true, noise, rng)
        held += found.low <= kendall(true[0], true[1]) <= found.high
    assert held >= 0.8 * trials  # of 95%: three standard errors


def test_sides_that_agree_wholly_are_not_called_apart_by_noise() -> None:
    rng = np.random.default_rng(3)
    true = np.stack([np.linspace(0, 3, 12)] * 2)
    found = [measured(true, 0.5, rng) for _ in range(10)]
    assert max(each.measured for each in found) < 1
    assert sum(each.high > 0.97 for each in found) >= 9
    assert all(each.low > 0 for each in found)


def test_pairs_that_are_told_apart_are_counted_whatever_scores_are_like() -> None:
    """Two clusters that both sides have, and no order in them: nine pairs are decided."""
    rng = np.random.default_rng(5)
    high = []
    for _ in range(20):
        true = np.repeat([0.0, 40.0], 3) + 0.1 * rng.standard_normal((2, 6))
        found = measured(true, 1.0, rng)
        assert (found.same, found.reversed, found.undecided) == (9, 0, 6)
        high.append(found.tau - kendall(true[0], true[1]))
    assert np.median(high) > 0.15, (
        "the model's tau is too high there, so it is not what is said first"
    )


def test_without_noise_it_is_what_is_seen_and_few_methods_have_none() -> None:
    score = np.array([[1.0, 2, 3, 4, 5], [1.0, 2, 4, 3, 5]])
    found = agreement("a and b", list("abcde"), score, np.repeat(score[:, None], 9, axis=1))
    assert found is not None and (found.low, found.tau, found.high) == (0.8, 0.8, 0.8)
    assert (found.same, found.reversed, found.undecided) == (9, 1, 0)
    assert agreement("a and b", list("abc"), score[:, :3], score[:, None, :3]) is None
    flat = np.stack([score[0], np.zeros(5)])
    assert agreement("a and b", list("abcde"), flat, flat[:, None]) is None


def test_a_board_says_how_rows_were_tuned_and_whether_sides_agree(tmp_path: Path) -> None:
    methods = {"sft": 20.0, "fkd": 25.0, "gkd": 31.0, "rkd": 38.0}
    for student in ("small", "other"):
        model = ModelRef(name=student, fingerprint=student * 4, parameters=9)
        for method, level in methods.items():
            for tuned in (False, True) if student == "small" else (False,):
                found = {"tuning": "tuned (8 trials)", "changes": ["train.lr=1e-3"]}
                write_run(
                    tmp_path / "runs",
                    method,
                    level + 4 * tuned,
                    student=model,
                    settings=f"{method}{student}{tuned}",
                    **(found if tuned else {"tuning": "default"}),
                )
    board = build([tmp_path / "runs"]).board
    (first,) = [table for table in board.tables if table.student == "small"]
    labels = {row.label: row.tuning for row in first.rows}
    assert labels["gkd"] == "default" and labels["gkd, tuned (8 trials)"] == "tuned (8 trials)"
    assert first.headline is not None
    (by_tuning,) = first.headline.agreement
    assert by_tuning.methods == sorted(methods) and by_tuning.tau > 0.9
    (overall,) = board.overall
    (pairs,) = overall.agreement
    assert pairs.between == "big → other and big → small" and pairs.tau > 0.9
    text = write(board_document(board), "md")
    said = "rank agreement of default and tuned settings: Kendall's tau 1.00 as measured, over 4 methods"
    assert said in text
    counts = (by_tuning.same, by_tuning.reversed, by_tuning.undecided)
    assert sum(counts) == 6 and f"of 6 pairs {counts[0]} are told apart on both sides" in text
    assert "if scores are normal over methods, tau of the true scores 1.00" in text
    assert "unless a name ends in ', paper' or ', tuned (N trials)'" in text
    # SFT that was searched is what all must beat
    assert first.headline.baseline == "sft, tuned (8 trials)"


def test_pairs_are_compared_method_by_method_over_suites_and_however_often_was_tried(
    tmp_path: Path,
) -> None:
    levels = {"sft": 20.0, "fkd": 25.0, "gkd": 31.0, "rkd": 38.0}
    places = [("mini", "small", 8), ("mini", "other", 4), ("real", "third", 2)]
    for suite, student, trials in places:
        model = ModelRef(name=student, fingerprint=student * 4, parameters=9)
        for method, level in levels.items():
            tuned = {"tuning": f"tuned ({trials} trials)", "changes": [f"train.lr=1e-{trials}"]}
            write_run(
                tmp_path / "runs",
                method,
                level,
                student=model,
                suite=suite,
                settings=f"{method}{student}",
                **tuned,
            )
    overall = build([tmp_path / "runs"]).board.overall
    assert [each.title for each in overall] == [
        "mini: over 2 pairs of models",
        "over 3 pairs of models of 2 suites",
    ]
    assert [len(each.places) for each in overall] == [4, 4]
    assert [place.label for place in overall[0].places] == ["rkd", "gkd", "fkd", "sft"]
    assert overall[0].baseline == "sft"
    assert [each.between for each in overall[0].agreement] == ["big → other and big → small"]
    assert [each.between for each in overall[1].agreement] == [
        "mini: big → other and real: big → third",
        "mini: big → small and real: big → third",
    ]
    assert all(each.tau > 0.9 for found in overall for each in found.agreement)
