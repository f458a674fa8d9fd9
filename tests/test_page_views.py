"""What the board's page lets a reader do, in a real Chromium: fold, compare, filter, link, take away."""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from board_runs import PROMPTS, write_run

from kdbench.harness.files.records import MethodFacts, PrepareRecord
from kdbench.harness.files.run_folder import RunFolder
from kdbench.reports.board import leaderboard

TASKS = ("dolly", "selfinst", "vicuna", "sni", "unni")
LEVELS = {
    "sft": 30.0,
    "fkd": 40.0,
    "gkd": 50.0,
    "same": 49.9,
    "a-method-with-quite-a-long-name": 35.0,
}
SEEDS = 2
REFERENCE = {"kind": "eval", "division": "reference", "training_seed": None}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def board_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five methods of two seeds on five tasks, and a teacher; a probe of one method alone."""
    folder = tmp_path_factory.mktemp("views")
    for method, level in LEVELS.items():
        for seed in range(SEEDS):
            probes = {"self_bleu": {"mean": 31.5}} if method == "gkd" else {}
            more = {"loss": {"loss": {"mean": 1.0, "low": 0.9, "high": 1.1, "n_prompts": 9}}}
            run = write_run(
                folder / "runs",
                method,
                level + 0.4 * seed,
                tasks=TASKS,
                training_seed=seed,
                note="sampled" if method == "same" else "student",
                probes=more | probes,
                text="one small house" if method == "gkd" else "one large house",
                variant="=2+2" if method == "fkd" else "",
            )
            facts = MethodFacts(
                name=method,
                title=method,
                paper="Hinton, arXiv:1503.02531; https://evil.invalid/2306.08543",
                variant="",
                objective=f"L = the loss of {method}.\n\nWhat it means.",
            )
            RunFolder(run).prepare.write(PrepareRecord(method=facts))
    write_run(folder / "runs", "teacher", 60, tasks=TASKS, **REFERENCE)
    out = folder / "index.html"
    leaderboard(folder / "runs", "html", out=out, cache=folder / "cache")
    return out


@pytest.fixture
def open_page(browser: Any, board_file: Path) -> Iterator[Open]:
    """Opens the page with a state; afterwards nothing may have been fetched or complained of."""
    opened: list[tuple[Any, list[str]]] = []

    def opener(fragment: str = "", width: int = 1440) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900})
        page, seen = context.new_page(), []
        page.on("request", lambda request: seen.append(request.url.partition("#")[0]))
        page.on("pageerror", lambda error: seen.append(f"error {error}"))
        page.on("console", lambda message: seen.append(f"console {message.text}"))
        page.goto(board_file.as_uri() + fragment)
        opened.append((context, seen))
        return page

    yield opener
    for context, seen in opened:
        context.close()
        assert {url for url in seen if not url.startswith("blob:")} == {board_file.as_uri()}


def heads(page: Any) -> list[str]:
    found = page.locator("table.board thead tr:last-child .sort").all_text_contents()
    return [re.sub(r"[↑↓]", "", text) for text in found]


def test_what_leads_a_table(open_page: Open) -> None:
    page = open_page()
    assert heads(page)[:3] == ["Gap closed, %", "Mean rank", "Alike"]
    assert page.locator("th[aria-sort]").inner_text().startswith("Gap closed")
    rows = page.locator("table.board tbody tr")
    assert rows.first.locator("th").inner_text() == "teacher"
    assert rows.first.locator("td").first.inner_text() == "100"
    assert rows.last.locator("th").inner_text() == "sft"
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    assert page.locator(".wide").count() == 0, "nothing is hidden at the right"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator("table.board tbody tr").last.scroll_into_view_if_needed()
    top = page.locator("table.board thead").bounding_box()["y"]
    assert top >= -1, "the head stays in sight"


def test_tasks_fold_and_the_address_says_so(open_page: Open) -> None:
    page = open_page(width=960)
    first = heads(page)
    assert first.count("ROUGE-L") == 5 and "EM" not in first
    folder = page.locator(".folder", has_text="selfinst")
    assert folder.get_attribute("aria-expanded") == "false"
    folder.press("Enter")
    folder.and_(page.locator("[aria-expanded=true]")).wait_for()
    assert heads(page).count("EM") == 1
    assert folder.evaluate("(node) => node === document.activeElement")
    page.reload()
    assert heads(page).count("EM") == 1
    page.locator(".folder", has_text="selfinst").click()
    assert "EM" not in heads(page)


def test_thin_columns_come_last(open_page: Open) -> None:
    page = open_page("#view=probe", width=2400)
    probes = [head for head in heads(page) if head in ("ref. loss", "self-BLEU")]
    assert probes[:2] == ["ref. loss", "self-BLEU"]
    filled = page.locator("table.board tbody tr", has_text="gkd").locator("td:not(.missing)")
    assert filled.last.inner_text().startswith("31.5")


def test_the_address_keeps_what_is_shown(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Search").fill("kd")
    page.get_by_label("Columns").select_option("score")
    page.locator("button.sort", has_text="ROUGE-L").nth(1).click()
    page.locator("summary", has_text="All pairs").click()
    page.locator("table.matrix td").first.wait_for()
    page.get_by_label("Column", exact=True).select_option(label="vicuna[mini] ROUGE-L")
    page.get_by_role("button", name="gkd", exact=True).click()
    page.locator("#card .stage").wait_for()
    page.locator("#card").get_by_label("Task").select_option(label="sni[mini]")
    page.locator("#card .stage", has_text="sni question").wait_for()
    page.locator("#card button.next").click()
    prompt = page.locator("#card .prompt").inner_text()
    other = open_page("#" + page.evaluate("location.hash").removeprefix("#"))
    other.locator("#card .stage").wait_for()
    assert other.locator("#card .prompt").inner_text() == prompt
    assert other.locator("#card h2").inner_text() == "gkd"
    assert other.get_by_label("Search").input_value() == "kd"
    assert other.get_by_label("Columns").input_value() == "score"
    head = other.locator("th[aria-sort]")
    assert head.get_attribute("title") == page.locator("th[aria-sort]").get_attribute("title")
    chosen = "(node) => node.selectedOptions[0].textContent"
    assert other.get_by_label("Column", exact=True).evaluate(chosen) == "vicuna[mini] ROUGE-L"
    other.keyboard.press("Escape")
    assert "card=" not in other.evaluate("location.hash")
    other.evaluate("location.hash = '#text=same'")
    other.locator("#count", has_text="2 of 6 rows").wait_for()


@pytest.mark.parametrize(
    "fragment",
    [
        "#sort=descending+nothing&open=__proto__&view=constructor&cost=toString&card=toString",
        "#answers=%3Cimg%20src=x%3E&prompt=-7&one=x&only=worst&cells=wide&matrix=no",
        "#a&b&=&==&%E0%A4%A",
    ],
)
def test_a_strange_address_shows_the_page(open_page: Open, fragment: str) -> None:
    page = open_page(fragment)
    assert page.locator("table.board tbody tr:visible").count() == 6
    assert heads(page)[:2] == ["Gap closed, %", "Mean rank"]
    assert page.locator("img").count() == 0


def test_prompts_are_filtered_and_words_compared(open_page: Open) -> None:
    page = open_page("#answers=dolly[mini]&one=gkd&two=same")
    viewer = page.locator(".viewer")
    viewer.locator(".stage").wait_for()
    cards = viewer.locator("article.answer")
    assert cards.nth(1).locator("ins").all_text_contents() == ["gkd", "small"]
    assert cards.nth(2).locator("del").all_text_contents() == ["same", "large"]
    show = viewer.get_by_label("Show")
    options = show.locator("option").all_text_contents()
    counts = {text.rpartition(" (")[0]: int(text[:-1].rpartition("(")[2]) for text in options}
    better, worse = (counts[f"where it is {way} than the other"] for way in ("better", "worse"))
    assert counts["all prompts"] == PROMPTS and better + worse == PROMPTS and better * worse > 0
    assert counts["where it is wrong (no exact match)"] == PROMPTS
    assert counts["where it stopped at the length limit"] == PROMPTS / 3
    show.select_option("better")
    viewer.locator(".count", has_text=f"prompt 1 of {better} that are so, of {PROMPTS}").wait_for()
    for _ in range(3):
        values = viewer.locator("article .facts").all_inner_texts()
        one, two = (float(re.search(r"ROUGE-L ([\d.]+)", text)[1]) for text in values[:2])  # type: ignore[index]
        assert one >= two
        viewer.locator("button.next").click()
    show.select_option("right")
    viewer.get_by_text("There is no such prompt").wait_for()
    show.select_option("")
    viewer.get_by_label("Compared with").select_option(label="the reference")
    viewer.locator("article.wanted del").first.wait_for()
    assert "where it is better than the other" not in show.inner_text()
    viewer.get_by_label("mark differing words").uncheck()
    assert viewer.locator("ins, del").count() == 0


def test_pictures_lead_to_cards_and_follow_the_cost(open_page: Open) -> None:
    page = open_page()
    ranks = page.get_by_role("img", name="Mean rank of 5 methods")
    assert ranks.locator(".clique").count() >= 1
    assert "gkd" in ranks.locator(".clique title").first.text_content()
    costs = page.get_by_role("group", name="gap closed, % against training time")
    assert costs.get_by_role("button").count() == 5
    page.get_by_label("Cost").select_option("student")
    costs = page.get_by_role("group", name="against tokens through the student")
    points = costs.get_by_role("button")
    said = [point.get_attribute("aria-label") for point in points.all()]
    assert said[0].startswith("same") and said[0].endswith(", 0"), "it used none of these tokens"
    assert all(text.endswith(", 1k") for text in said[1:])
    assert page.evaluate("location.hash") == "#cost=student"
    costs.locator("[tabindex='0']").focus()
    before = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("ArrowRight")
    after = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert after != before and costs.locator("[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert page.locator("#card h2").inner_text() in after
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == after


def test_a_letter_of_methods_that_are_no_neighbours_is_a_bar_with_a_gap(open_page: Open) -> None:
    page = open_page()
    bars, filled = page.evaluate(
        """() => {
          const number = { mean: 1, low: 1, high: 2, text: "", range: "" };
          const place = (label, alike) => ({ label, alike, rank: number, gap: { missing: "none" } });
          const head = { places: [place("one", "a"), place("two", "b"), place("three", "ab")] };
          const svg = drawRanks(head, (label) => label, 900);
          const all = (name) => [...svg.querySelectorAll(name)];
          return [all(".clique").map((bar) => bar.querySelectorAll("line").length),
                  all(".dot").map((dot) => dot.classList.contains("best"))];
        }"""
    )
    assert bars == [2, 1]
    assert filled == [True, False, True], (
        "two is worse than one; of three nothing is known to be better"
    )


def test_a_card_has_the_formula_and_links_to_arxiv_only(open_page: Open) -> None:
    page = open_page("#card=gkd")
    card = page.locator("#card")
    assert card.locator(".formula").inner_text() == "L = the loss of gkd."
    assert "What it means." in card.inner_text()
    assert "Settings: the suite's defaults" in card.inner_text()
    (link,) = card.locator("a").all()
    assert link.get_attribute("href") == "https://arxiv.org/abs/1503.02531"
    assert link.get_attribute("rel") == "noopener noreferrer"


def test_the_visible_table_is_taken_away(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    page.get_by_label("Search").fill("kd")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    out = tmp_path / "board.csv"
    waiting.value.save_as(out)
    rows = list(csv.DictReader(out.read_text(encoding="utf-8-sig").splitlines()))
    assert [row["method"] for row in rows] == ["teacher", "gkd", "fkd"]
    assert float(rows[1]["Standing Gap closed, % low"]) < float(rows[1]["Standing Gap closed, %"])
    assert float(rows[0]["dolly[mini] ROUGE-L"]) == pytest.approx(60, abs=3)
    assert rows[2]["row"] == "fkd =2+2"
    formulas = page.evaluate("[' =1', '\u00a0＋1', '\\n1', 'a=1', 1].map(csvCell)")
    assert formulas == ["' =1", "'\u00a0＋1", '"\'\n1"', "a=1", "1"]


def test_a_print_has_no_controls_and_every_row(open_page: Open) -> None:
    page = open_page(width=700)
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert not page.get_by_role("button", name="Download CSV").is_visible()
    box = page.locator(".tall").first
    assert box.evaluate("(node) => getComputedStyle(node).overflow") == "visible"


def test_the_matrix_is_not_clipped(open_page: Open) -> None:
    page = open_page("#matrix=dolly[mini] ROUGE-L")
    page.locator("table.matrix td").first.wait_for()
    cut = """() => [...document.querySelectorAll("table.matrix th, table.matrix th span")]
      .filter((node) => node.scrollWidth > node.clientWidth + 1 && node.clientWidth
        || node.scrollHeight > node.clientHeight + 1 && node.clientHeight).map((node) => node.textContent)"""
    assert page.evaluate(cut) == []
    names = page.locator("table.matrix tbody th").all_inner_texts()
    assert "a-method-with-quite-a-long-name" in names
