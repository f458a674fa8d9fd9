"""Writes docs/board/ from runs: bundles of them, the board and the claims made of these, and pictures.

    python docs/make_board.py RUNS … [--out docs/board] [--no-pictures]

The bundles, of the suite's own student and of the others, are what ``kdbench bundle`` makes, and the board
is verified from a clone by ::

    kdbench leaderboard docs/board/mini-2*.bundle --format md --out docs/board/board.md --verify

Trainings of which nothing was asked, such as the trials of a search, are left out. The pictures need
playwright and a Chromium (``--browser``, else the one of Debian, else playwright's own) and are made of
the page as it opens from disk, with no network.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdbench.reports.board import leaderboard
from kdbench.reports.bundle import write_bundle
from kdbench.reports.claims.document import claims_document
from kdbench.reports.claims.judge import judge_claims
from kdbench.reports.runs import Run, finished_runs, without_unasked
from kdbench.reports.text.formats import write

DEBIAN = Path("/usr/bin/chromium")
STUDENT, MAIN, OTHERS = "mini-2:student", "mini-2.bundle", "mini-2-students.bundle"
"""The suite's own student; the bundles of its runs, and of those of other students."""
SHOWN = 12
"""Prompts of each task whose answers are in it."""
PICTURES = (
    ("desktop-light", 1440, 900, "light", ""),
    ("phone-dark", 390, 844, "dark", ""),
    ("card-desktop", 1440, 900, "light", "card"),
)
"""Name, width, height, colour scheme, and what is opened first."""


def pictures(page_file: Path, out: Path, browser: Path | None) -> list[Path]:
    """Screenshots of the page into ``out``, as a window of that size shows it."""
    from playwright.sync_api import sync_playwright

    made = []
    with sync_playwright() as play:
        executable = str(browser) if browser else None
        chromium = play.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for name, width, height, scheme, opened in PICTURES:
            context = chromium.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,  # type: ignore[arg-type]
                device_scale_factor=2 if width < 600 else 1,
                offline=True,
            )
            page = context.new_page()
            page.goto(page_file.resolve().as_uri())
            if opened == "card":
                page.locator("tr:not(.reference) button.open").first.click()
                page.locator("#card .stage").wait_for()
            elif opened:
                word = "significant" if opened == "matrix" else "side by side"
                page.locator("summary", has_text=word).first.click()
                page.locator("table.matrix td, .viewer .stage").first.wait_for()
            path = out / f"{name}.png"
            page.screenshot(path=str(path), full_page=False)
            made.append(path)
            context.close()
        chromium.close()
    return made


def bundles(runs: Sequence[Run], out: Path) -> list[Path]:
    """The bundles, written; evaluated models of no student stand beside the suite's own."""
    own, others = [], []
    for run in runs:
        student = run.summary.run.student
        other = student is not None and student.name.startswith(f"{STUDENT}-")
        (others if other else own).append(run.folder.path)
    for name, folders in ((MAIN, own), (OTHERS, others)):
        write_bundle(folders, out / name, prompts=SHOWN)
    return [out / MAIN, out / OTHERS]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, folders of runs, bundles")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "board")
    parser.add_argument("--browser", type=Path, default=DEBIAN if DEBIAN.is_file() else None)
    parser.add_argument("--no-pictures", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    runs, _ = without_unasked(finished_runs(arguments.runs)[0])
    made = bundles(runs, out)
    leaderboard(made, "md", out=out / "board.md")
    claims = write(claims_document(judge_claims(made)), "md")
    (out / "claims.md").write_text(claims, encoding="utf-8")
    files = [*made, out / "board.md", out / "claims.md"]
    if not arguments.no_pictures:
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "index.html"
            leaderboard(made, "html", out=page)
            files += pictures(page, out, arguments.browser)
    for file in files:
        print(f"{file.stat().st_size:>9,} {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
