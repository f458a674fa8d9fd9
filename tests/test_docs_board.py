"""The board in docs/ is that of the bundle beside it."""

from pathlib import Path

from kdbench.reports.board import leaderboard
from kdbench.reports.claims.document import claims_document
from kdbench.reports.claims.judge import judge_claims
from kdbench.reports.text.formats import write

BOARD = Path(__file__).parent.parent / "docs" / "board"
BUNDLE = BOARD / "mini-2.bundle"


def test_the_committed_board_is_made_of_the_committed_bundle() -> None:
    leaderboard(BUNDLE, "md", out=BOARD / "board.md", verify=True)


def test_so_are_the_claims() -> None:
    made = write(claims_document(judge_claims([BUNDLE])), "md")
    assert made == (BOARD / "claims.md").read_text(encoding="utf-8")
