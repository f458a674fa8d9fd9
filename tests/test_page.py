"""The board's page in a real Chromium: what is planted in runs never runs; everything works."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_runs import estimate, write_run

from kdbench.harness.files.records import ModelRef
from kdbench.reports.board import build, leaderboard
from kdbench.reports.page import html as page_module
from kdbench.reports.page.data import page_data
from kdbench.reports.text.html import script_json

EVIL = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
    "<svg onload=window.hacked=3>\"'><iframe srcdoc='<script>parent.hacked=4</script>'></iframe>"
    "<!--<script>{{7*7}}${7*7}<a href=javascript:window.hacked=5>x</a>"
    "<link rel=stylesheet href=https://evil.invalid/x.css>\u2028alert(1)//"
)


def write_board(folder: Path) -> Path:
    """Three methods and two references, one of each with all that could be planted."""
    runs = folder / "runs"
    tasks = ("dolly", "selfinst")
    probes = {
        "exposure": {
            "prompts": 30,
            "at_length": {
                "ex_acc_err": {"value": 12.0, "low": 10.0, "high": 14.0},
                "R": {"value": 2.0, "low": 1.0, "high": 3.0},
            },
        },
        "self_bleu": {"mean": 31.5},
    }
    judge = {"gpt-x": {"feedback": estimate(70.0)}}
    write_run(runs, "alpha", 40, tasks=tasks, probes=probes, judge=judge)
    write_run(runs, "beta", 30)
    write_run(runs, "gamma", 20, tasks=tasks, division="open", text="long " * 400)
    write_run(runs, "delta", 25, edition="full")
    write_run(runs, EVIL, 35, tasks=tasks, text=EVIL, note=EVIL, variant=EVIL)
    eval_row = {"kind": "eval", "division": "reference", "training_seed": None}
    write_run(runs, "teacher", 60, tasks=tasks, **eval_row)
    write_run(runs, "other", 50, suite=f"suite {EVIL}")
    (runs / f"unfinished {EVIL.replace('/', '')[:80]}").mkdir()
    (runs / f"unfinished {EVIL.replace('/', '')[:80]}" / "config.json").write_text("{}")
    out = folder / "index.html"
    leaderboard(runs, "html", out=out, cache=folder / "cache")
    return out


@pytest.fixture(scope="module")
def board_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_board(tmp_path_factory.mktemp("page"))


@pytest.fixture
def open_page(browser: Any, board_file: Path) -> Iterator[Any]:
    """Opens the page; afterwards nothing may have run, asked, complained or been fetched."""
    opened: list[tuple[Any, Any, list[str]]] = []

    def opener(**options: Any) -> Any:
        context = browser.new_context(**options)
        page, seen = context.new_page(), []
        page.on("request", lambda request: seen.append(request.url))
        page.on("dialog", lambda dialog: (seen.append(f"dialog {dialog.message}"), dialog.accept()))
        page.on("pageerror", lambda error: seen.append(f"error {error}"))
        page.on("console", lambda message: seen.append(f"console {message.text}"))
        page.goto(board_file.as_uri())
        opened.append((context, page, seen))
        return page

    yield opener
    for context, page, seen in opened:
        hacked = page.evaluate("window.hacked")
        context.close()
        assert hacked is None
        assert set(seen) == {board_file.as_uri()}


def unfold(page: Any, text: str, shows: str) -> None:
    """Opens the first fold of such a summary and waits for what it draws once it is open."""
    page.locator("summary", has_text=text).first.click()
    page.locator(shows).first.wait_for()


def names(page: Any) -> list[str]:
    return page.locator("section").first.locator("button.open:visible").all_text_contents()


def test_planted_scripts_stay_text(open_page: Any) -> None:
    page = open_page()
    page.locator("button.open", has_text="</script>").first.click()
    card = page.locator("#card")
    card.locator(".stage").wait_for()
    for summary in card.locator("summary").all():
        if summary.locator("xpath=..").get_attribute("open") is None:
            summary.click()
    shown = card.inner_text()
    assert shown.count("window.hacked=2") > 12  # configuration, cost, provenance, samples …
    assert "{{7*7}}${7*7}" in shown
    for tag in ("img", "iframe", "script", "link", "a"):
        assert card.locator(tag).count() == 0
    page.keyboard.press("Escape")
    unfold(page, "side by side", ".viewer .stage")
    page.get_by_text("Choose students").first.click()
    for box in page.locator(".boxes input").all():
        box.check()
    assert "onerror=window.hacked=2" in page.locator(".stage").first.inner_text()
    assert page.locator("script").count() == 2
    assert page.locator("img, iframe, link, a:not(.skip)").count() == 0
    assert "unfinished" in page.locator("#left-out").inner_text()


def test_the_policy_blocks_requests_and_foreign_scripts(browser: Any, board_file: Path) -> None:
    page = browser.new_page()
    page.goto(board_file.as_uri())
    blocked = page.evaluate(
        """async () => {
          const found = [];
          addEventListener("securitypolicyviolation", (event) => found.push(event.violatedDirective));
          await fetch("https://example.invalid/").catch(() => null);
          const script = document.createElement("script");
          script.textContent = "window.hacked = 9";
          document.body.append(script);
          const image = new Image();
          image.src = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
          document.body.append(image);
          await new Promise((done) => setTimeout(done, 100));
          return [found, window.hacked ?? null];
        }"""
    )
    page.close()
    directives, hacked = blocked
    assert hacked is None
    assert {d.removesuffix("-elem") for d in directives} == {"connect-src", "script-src", "img-src"}


def test_sorting(open_page: Any) -> None:
    page = open_page()
    first = page.locator("section").first
    head = first.locator("th[aria-sort]")
    assert head.inner_text().startswith("Mean rank")  # where the methods stand comes first
    assert head.get_attribute("aria-sort") == "ascending"
    ranked = [n for n in names(page) if len(n) < 9]
    # without a rank a reference leads, and methods that are in no task that counts come last; selfinst,
    # asked of three of five, does not count
    assert ranked == ["teacher", "alpha", "beta", "gamma", "delta"]
    first.locator("button.sort", has_text="ROUGE-L").first.click()
    assert head.get_attribute("aria-sort") == "descending"  # best first
    order = names(page)
    assert order[0] == "teacher"
    assert [n for n in order if len(n) < 9] == ["teacher", "alpha", "beta", "gamma", "delta"]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    ascending = [n for n in names(page) if len(n) < 9]
    assert ascending == ["gamma", "beta", "alpha", "teacher", "delta"]  # no value: still last
    first.locator("button.sort", has_text="Method").click()
    assert [n for n in names(page) if len(n) < 9] == ["alpha", "beta", "delta", "gamma", "teacher"]
    assert first.locator("th[aria-sort]").count() == 1


def test_filters(open_page: Any) -> None:
    page = open_page()
    every = page.locator("#count").inner_text()
    assert every == "7 rows"
    page.get_by_label("Search").fill("ALPH")
    assert names(page) == ["teacher", "alpha"]  # nothing hides a reference
    assert page.locator("#count").inner_text() == "2 of 7 rows"
    page.get_by_label("Search").fill("")
    page.get_by_label("Division").select_option("open")
    assert names(page) == ["teacher", "gamma"]
    page.get_by_label("Division").select_option("")
    page.get_by_label("Task").select_option("selfinst")
    assert "beta" not in names(page)
    groups = page.locator("section").first.locator("th.group").all_text_contents()
    assert groups == ["selfinst[mini]", "selfinst[mini] by gpt-x"]
    page.get_by_label("Task").select_option("")
    page.get_by_label("Edition").select_option("full")
    assert names(page) == ["teacher", "delta"]
    page.get_by_label("Edition").select_option("")
    page.locator("select[name=pair]").select_option(index=1)
    assert page.locator("section:visible").count() == 1
    assert page.locator("#count").inner_text() == "6 of 7 rows"


def test_columns_of_probes_and_judges(open_page: Any) -> None:
    page = open_page()
    section = page.locator("section").first
    page.get_by_label("Columns").select_option("probe")
    alpha = section.locator("tr", has=page.get_by_role("button", name="alpha", exact=True))
    assert "12.0 [10.0, 14.0]" in " ".join(alpha.inner_text().split())
    assert "31.5" in alpha.inner_text()
    beta = section.locator("tr", has=page.get_by_role("button", name="beta", exact=True))
    cell = beta.locator("td.missing:not(.stand)").first
    assert cell.get_attribute("title") == "probe not run"
    letter = cell.locator("sup").inner_text()
    assert f"{letter} probe not run" in section.locator(".reasons").inner_text()
    page.get_by_label("Columns").select_option("judge")
    assert "70.0 [69.0, 71.0]" in " ".join(alpha.inner_text().split())
    assert section.locator("td .best").count() == 0  # no test, no bold


def test_a_row_opens_by_keyboard_and_gives_the_focus_back(open_page: Any) -> None:
    page = open_page()
    button = page.get_by_role("button", name="alpha", exact=True).first
    button.focus()
    page.keyboard.press("Enter")
    card = page.locator("#card")
    assert card.evaluate("(node) => node.open")
    assert button.get_attribute("aria-expanded") == "true"
    assert card.evaluate("(node) => node.contains(document.activeElement)")
    assert card.get_attribute("aria-labelledby") == "card-title"
    text = card.inner_text()
    for expected in ("alpha", "90.5 s", "12 MB", "1M parameters"):
        assert expected in text
    for _ in range(16):  # the focus never leaves the dialog for the page below
        page.keyboard.press("Tab")
        assert card.evaluate(
            "(node) => node.contains(document.activeElement) || document.activeElement === document.body"
        )
    page.keyboard.press("Escape")
    assert not card.evaluate("(node) => node.open")
    assert button.get_attribute("aria-expanded") == "false"
    assert button.evaluate("(node) => node === document.activeElement")
    outline = button.evaluate("(node) => getComputedStyle(node).outlineStyle")
    assert outline == "solid"


def test_a_click_anywhere_in_a_row_opens_it(open_page: Any) -> None:
    page = open_page()
    rows = page.locator("section").first.locator("table.board:not(.places) tr")
    rows.filter(has_text="gamma").locator("td").first.click()
    card = page.locator("#card")
    assert card.locator("h2").inner_text() == "gamma (open)"
    card.get_by_role("button", name="Close").click()
    assert not card.is_visible()


def test_samples_are_aligned_and_can_be_walked(open_page: Any) -> None:
    page = open_page()
    unfold(page, "side by side", ".viewer .stage")
    viewer = page.locator(".viewer").first
    asked = []
    total = int(viewer.locator(".count").inner_text().split()[-1])
    assert total == 30
    for prompt, answers in viewer.evaluate(
        """(node) => [...Array(30)].map(() => {
          const text = [...node.querySelectorAll(".passage")].map((one) => one.textContent);
          node.querySelector("button.next").click();
          return [text[0], text.slice(1)];
        })"""
    ):
        number = re.search(r"question (\d+)", prompt)
        assert number
        asked.append(number[1])
        assert len(answers) == 4
        assert all(f" {number[1]} " in f"{answer} " for answer in answers)
        assert all("with seed 10" in answer for answer in answers[1:])
    assert len(set(asked)) == total
    assert viewer.locator(".count").inner_text() == "prompt 1 of 30"
    viewer.locator("button.previous").press("Enter")
    assert viewer.locator(".count").inner_text() == "prompt 30 of 30"
    viewer.locator("button.previous").press("ArrowRight")
    assert viewer.locator(".count").inner_text() == "prompt 1 of 30"
    viewer.get_by_text("Choose students").click()
    viewer.get_by_label("gamma").check()
    assert "more characters not on this page" in viewer.inner_text()
    assert "ROUGE-L" in viewer.inner_text()
    viewer.get_by_label("Task").select_option(label="selfinst[mini]")
    viewer.locator(".stage", has_text="selfinst question").wait_for()
    assert viewer.locator(".count").inner_text() == "prompt 1 of 30"


def test_matrix_follows_the_visible_rows(open_page: Any) -> None:
    page = open_page(viewport={"width": 1280, "height": 900})
    unfold(page, "All pairs", "table.matrix td")
    matrix = page.locator("table.matrix").first
    heads = matrix.locator("tbody th").all_text_contents()
    assert [head for head in heads if len(head) < 20] == ["alpha", "beta", "gamma (open)"]
    ahead = matrix.locator("tbody tr").first.locator("td.ahead")
    assert ahead.count() == len(heads) - 1
    title = ahead.last.get_attribute("title")
    assert "significantly better" in title
    assert re.search(r"p = 0\.000\d \(all pairs\)", title)
    page.get_by_label("Division").select_option("closed")
    assert "gamma (open)" not in page.locator("table.matrix tbody th").all_text_contents()


@pytest.fixture(scope="module")
def seeds_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two methods of three training seeds and one of a single seed."""
    folder = tmp_path_factory.mktemp("seeds")
    for method, level, seeds in (
        ("alpha", 40, (1, 2, 3)),
        ("beta", 30, (1, 2, 3)),
        ("one", 20, (1,)),
    ):
        for seed in seeds:
            luck = seed * 0.5 if method == "alpha" else seed * 0.01  # no variance to pool
            own = {"training_seed": seed, "note": f"note{seed}"}
            write_run(folder / "runs", method, level + luck, **own)
    out = folder / "index.html"
    leaderboard(folder / "runs", "html", out=out, cache=folder / "cache")
    return out


def test_pairs_tested_over_prompts_only_are_told_apart(browser: Any, seeds_file: Path) -> None:
    page = browser.new_page()
    page.goto(seeds_file.as_uri())
    unfold(page, "All pairs", "table.matrix td")
    cells = page.locator("table.matrix tbody tr").first.locator("td.ahead")
    with_seeds, without = cells.all()
    assert "these students only" not in with_seeds.get_attribute("title")
    assert without.get_attribute("title").endswith("significantly better (these students only)")
    look = "(node) => [getComputedStyle(node).fontWeight, getComputedStyle(node).backgroundImage]"
    assert with_seeds.evaluate(look) == ["600", "none"]
    assert without.evaluate(look)[0] == "400"
    assert "gradient" in without.evaluate(look)[1]
    assert "Hatched or dashed" in page.locator("section").first.inner_text()
    page.close()


def test_dark_mode_by_system_and_by_button(open_page: Any) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = open_page(color_scheme="light"), open_page(color_scheme="dark")
    one, two = light.evaluate(paper), dark.evaluate(paper)
    assert one == "rgb(255, 255, 255)"
    assert two != one
    button = light.get_by_role("button", name="Theme: system")
    button.click()
    assert light.evaluate(paper) == one
    light.get_by_role("button", name="Theme: light").click()
    assert light.evaluate(paper) == two
    light.reload()
    assert light.evaluate(paper) == two  # remembered
    light.evaluate("localStorage.clear()")


def test_a_phone_scrolls_tables_and_not_the_page(open_page: Any) -> None:
    page = open_page(viewport={"width": 360, "height": 740})
    page.get_by_label("Columns").select_option("all")
    unfold(page, "All pairs", "table.matrix td")
    unfold(page, "side by side", ".viewer .stage")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    box = page.locator(".scroll.tall").first
    assert box.evaluate("(node) => node.scrollWidth > node.clientWidth")
    page.get_by_role("button", name="alpha", exact=True).first.click()
    card = page.locator("#card")
    assert card.evaluate("(node) => node.scrollWidth <= node.clientWidth")
    assert card.bounding_box()["width"] == 360


def test_every_table_has_its_signature(open_page: Any) -> None:
    page = open_page()
    for section in page.locator("section").all():
        assert "training variance unmeasured" in section.locator("> .signature").inner_text()


def test_a_command_names_no_place_of_the_machine(board_file: Path) -> None:
    html = board_file.read_text()
    assert "kdbench run --method alpha --set note=plain" in html
    assert "/private" not in html


def test_a_card_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    place = "/private/models"
    student = ModelRef(name=f"{place}/small", fingerprint="s" * 16, parameters=1)
    write_run(tmp_path / "runs", "alpha", 40, note=f"{place}/note", student=student)
    (table,) = page_data(build([tmp_path / "runs"]), [[]], 1)["tables"]
    (row,) = table["rows"]
    shown = json.dumps({name: row["card"][name] for name in ("facts", "config", "provenance")})
    assert place not in shown
    assert "small (1e-06M parameters" in shown
    assert '["note", "note"]' in shown
    assert row["card"]["command"] == "kdbench run --method alpha --set note=note"


def test_a_card_says_which_run_it_shows(browser: Any, seeds_file: Path) -> None:
    page = browser.new_page()
    page.goto(seeds_file.as_uri())
    page.get_by_role("button", name="alpha", exact=True).click()
    card = page.locator("#card")
    text = card.inner_text()
    for part in ("Learning", "Configuration", "Provenance", "To reproduce", "student"):
        assert f"{part} (training seed 1)" in text
    assert "note=note1" in text
    for seed in (1, 2, 3):
        assert f"{seed - 1:012x} (training seed {seed})" in text
    card.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="one", exact=True).click()
    assert "(training seed" not in card.inner_text()
    page.close()


def test_script_json_cannot_be_left(board_file: Path) -> None:
    assert json.loads(script_json({"a": EVIL})) == {"a": EVIL}
    assert not set("<>&\u2028") & set(script_json([EVIL]))
    assert json.loads(script_json("\ud800x")) == "\ufffdx"
    html = board_file.read_text()
    assert html.lower().count("<script") == 2
    assert html.lower().count("</script") == 2
    assert "http-equiv" in html
    style, script = (re.search(f"<{t}>(.*?)</{t}>", html, re.S) for t in ("style", "script"))
    assert style and script
    for kind, match in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(match[1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in html
        assert "http" not in match[1]
    assert "innerHTML" not in script[1]


def test_a_page_with_too_much_text_shows_fewer_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    write_run(runs, "a", 40, text="word " * 100)
    write_run(runs, "b", 30, text="word " * 100)
    whole = len(leaderboard(runs, "html", cache=tmp_path / "cache").encode())
    sizes = []
    for limit in (10**9, whole - 300, 1):
        monkeypatch.setattr(page_module, "MAX_BYTES", limit)
        html = leaderboard(runs, "html", cache=tmp_path / "cache")
        assert limit == 1 or len(html.encode()) <= limit
        data = re.search(r'id="data">(.*?)</script>', html, re.S)
        assert data
        board = json.loads(data[1])
        (table,) = board["tables"]
        (group,) = table["samples"]
        block = re.search(r'id="block-0">(.*?)</template>', html, re.S)
        assert block
        text = gzip.decompress(base64.b64decode(block[1])).decode() if block[1] else "{}"
        assert len(json.loads(text).get("prompts", [])) == group["count"]
        assert bool(board["room"]) == (group["count"] < group["of"])
        sizes.append(group["count"])
    assert sizes[0] == 30
    assert 0 < sizes[1] < 30
    assert sizes[2] == 0
    assert "0 of 30 prompts are in it" in board["room"]
