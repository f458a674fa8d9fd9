"""The board and the study in docs/ are those of the bundles beside them."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.reports.board import leaderboard
from kdbench.reports.claims.document import claims_document
from kdbench.reports.claims.judge import judge_claims
from kdbench.reports.text.formats import write

BOARD = Path(__file__).parent.parent / "docs" / "board"
BUNDLE = BOARD / "mini-2.bundle"
BUNDLES = [BUNDLE, BOARD / "mini-2-students.bundle"]


@pytest.mark.parametrize(
    ("bundles", "board"),
    [
        (BUNDLES, "board.md"),
        ([BOARD / "second-search.bundle"], "second-search.md"),
        ([BOARD / "four-times.bundle"], "four-times.md"),
    ],
)
def test_the_committed_board_is_made_of_the_committed_bundles(
    bundles: list[Path], board: str
) -> None:
    leaderboard(bundles, "md", out=BOARD / board, verify=True)


def test_so_are_the_claims() -> None:
    made = write(claims_document(judge_claims(BUNDLES)), "md")
    assert made == (BOARD / "claims.md").read_text(encoding="utf-8")


def test_so_is_the_page_of_all_methods() -> None:
    spec = importlib.util.spec_from_file_location("make_zoo", BOARD.parent / "make_zoo.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.page(BUNDLE) == (BOARD.parent / "method-zoo.md").read_text(encoding="utf-8")


def test_so_is_the_study_of_dpkd(
    kdbench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    bundle = BOARD / "dpkd-anchor.bundle"
    code, _, error = kdbench(
        "ablate", "dpkd-anchor", "--seeds", "20", "--runs-dir", bundle, "--out", tmp_path, "--quiet"
    )
    assert code == 0, error
    made = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert made == (BOARD / "dpkd-anchor.md").read_text(encoding="utf-8")
