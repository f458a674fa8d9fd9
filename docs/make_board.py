"""Writes docs/board/ from a folder of runs: every format, the claims, and pictures of the page.

    python docs/make_board.py RUNS [--out docs/board] [--no-pictures]

The formats are those of ``kdbench leaderboard RUNS --out DIR``, the claims those of ``kdbench claims
RUNS --format md``; the pictures need playwright and a
Chromium (``--browser``, else the one of Debian, else playwright's own) and are made of the page as
it opens from disk, with no network. ``kdbench leaderboard RUNS --out DIR --verify`` checks the text
formats afterwards.
"""

import argparse
import sys
from pathlib import Path

from kdbench.reports.board import leaderboard_folder
from kdbench.reports.claims.document import claims_document
from kdbench.reports.claims.judge import judge_claims
from kdbench.reports.text.formats import write

DEBIAN = Path("/usr/bin/chromium")
PICTURES = (
    ("desktop-light", 1440, 900, "light", ""),
    ("desktop-dark", 1440, 900, "dark", ""),
    ("phone-light", 390, 844, "light", ""),
    ("phone-dark", 390, 844, "dark", ""),
    ("card-desktop", 1440, 900, "light", "card"),
    ("card-phone", 390, 844, "light", "card"),
    ("matrix-desktop", 1440, 900, "light", "matrix"),
    ("samples-desktop", 1440, 900, "light", "samples"),
)
"""Name, width, height, colour scheme, and what is opened first."""


def pictures(page_file: Path, out: Path, browser: Path | None) -> list[Path]:
    """Screenshots of the page into ``out``; whole pages, cards as the window shows them."""
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
            page.screenshot(path=str(path), full_page=opened != "card")
            made.append(path)
            context.close()
        chromium.close()
    return made


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders of runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "board")
    parser.add_argument("--browser", type=Path, default=DEBIAN if DEBIAN.is_file() else None)
    parser.add_argument("--no-pictures", action="store_true")
    arguments = parser.parse_args()
    files = leaderboard_folder(arguments.runs, arguments.out)
    claims = arguments.out / "claims.md"
    document = claims_document(judge_claims(arguments.runs))
    claims.write_text(write(document, "md"), encoding="utf-8")
    files.append(claims)
    if not arguments.no_pictures:
        files += pictures(arguments.out / "index.html", arguments.out, arguments.browser)
    for file in files:
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
