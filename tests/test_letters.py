"""Letters: two methods share one exactly where they cannot be told apart."""

import numpy as np
import pytest

from kdbench.reports.letters import letters


def shown(same: np.ndarray) -> list[str]:
    return letters(same, list(range(len(same))))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95])
def test_two_share_a_letter_exactly_where_they_are_alike(share: float) -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        rows = int(rng.integers(1, 14))
        drawn = np.triu(rng.random((rows, rows)) < share, k=1)
        same = drawn | drawn.T | np.eye(rows, dtype=bool)
        order = rng.permutation(rows).tolist()
        found = letters(same, order)
        for i in range(rows):
            for j in range(rows):
                assert bool(set(found[i]) & set(found[j])) == bool(same[i, j])
        assert "a" in found[order[0]] and all(len(set(own)) == len(own) > 0 for own in found)


def test_a_pair_between_two_that_are_alike_may_be_apart() -> None:
    same = np.ones((3, 3), dtype=bool)
    same[0, 1] = same[1, 0] = False  # the second is measured well, the third hardly
    assert shown(same) == ["a", "b", "ab"]


def test_neighbours_have_one_letter_a_run() -> None:
    rows = np.arange(6)
    assert shown(np.abs(rows[:, None] - rows) <= 1) == ["a", "ab", "bc", "cd", "de", "e"]
    assert shown(np.ones((4, 4), dtype=bool)) == ["a"] * 4


def test_a_letter_without_which_every_pair_has_one_is_left_out() -> None:
    """Three sets cover all pairs; the fourth, of one method of each, is a clique and says nothing new."""
    same = np.eye(6, dtype=bool)
    for group in ((0, 1, 3), (0, 2, 4), (1, 2, 5)):
        same[np.ix_(group, group)] = True
    assert len(set("".join(shown(same)))) == 3


def test_a_letter_is_one_character_however_many_there_are() -> None:
    found = shown(np.eye(120, dtype=bool))
    assert all(len(letter) == 1 for letter in found) and len(set(found)) == 120
