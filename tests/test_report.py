"""The report of a run: equal bytes, inert text, reasons for what is missing, exit codes."""

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from kdbench.harness import cli
from kdbench.harness.errors import InputError
from kdbench.harness.files.store import append_rows, read_json, write_json
from kdbench.reports.run.report import write_report
from kdbench.reports.run.samples import choose
from kdbench.reports.text.document import Code, Document, Paragraph, Section, Table
from kdbench.reports.text.formats import write
from tests.support.report_runs import (
    CONFIG,
    INIT,
    TEACHER,
    reference_run,
    scores,
    trained_run,
    training,
)

HOSTILE = (
    "</p><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "\n```\n# heading\n[link](javascript:alert(1)) <b>|</b> ``` \u202e\x1b[31m ~~~"
)


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    reference_run(folder, "teacher", TEACHER)
    reference_run(folder, "sft-init", INIT, "a weaker one")
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report full of text that wants to run."""
    base = tmp_path_factory.mktemp("hostile")
    reference_run(base / "runs", "teacher", TEACHER, HOSTILE)
    write_report(trained_run(base / "runs", HOSTILE.replace("\n", " "), answer=HOSTILE), base)
    return base


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


def test_equal_runs_give_equal_bytes(runs: Path, tmp_path: Path) -> None:
    trained_run(runs, "rkd", seconds=30.0)
    run = trained_run(runs)
    report = write_report(run)
    assert report.left_out == {}
    assert report.missing == []
    assert {path.name for path in report.files} >= {"report.md", "report.html", "training.csv"}
    shutil.copytree(runs, tmp_path / "moved")
    write_report(tmp_path / "moved" / run.name, tmp_path / "two")
    assert contents(run / "report") == contents(tmp_path / "two")


def test_report_shows_the_run_and_its_references(runs: Path, tmp_path: Path) -> None:
    write_report(trained_run(runs), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# fkd on mini\n")
    assert "Finished: every stage is done." in text
    row = next(line for line in text.splitlines() if "ROUGE-L" in line and line.startswith("|"))
    assert row.count(r"| 30.0 \[") == 1
    assert row.count(r"| 60.0 \[") == 2, "teacher and init"
    assert "`kdbench:test|seeds:10,20`" in text
    assert "| train | 60.0 s | student 5,000 | 100 MB |" in text
    assert "/home/someone/models" not in text.split("## To reproduce")[0]
    assert text.index("**reference**") < text.index("**fkd**") < text.index("**teacher**")
    assert "a better one" in text
    assert "a weaker one" in text


def test_evaluations_of_one_task_stay_apart(runs: Path, tmp_path: Path) -> None:
    """Two protocols of a task, and two sets of decoding seeds under one of them."""
    run = trained_run(runs)
    summary = read_json(run / "summary.json")
    (key,) = summary["scores"]
    for twin, protocol in (("dolly@00000000", "minillm-compat"), ("dolly@11111111", "strict")):
        summary["scores"][twin] = summary["scores"][key] | {"protocol": protocol}
        summary["probes"][twin] = summary["probes"][key]
    write_json(run / "summary.json", summary)
    write_report(run, tmp_path)
    text = (tmp_path / "figures" / "length-buckets.csv").read_text()
    tasks = {row["task"] for row in csv.DictReader(text.splitlines())}
    digits = key.rpartition("@")[2]
    assert tasks == {
        "dolly[mini] minillm-compat",
        "dolly[mini] strict @11111111",
        f"dolly[mini] strict @{digits}",
    }
    assert "closed" not in (tmp_path / "report.md").read_text(), "of a run alone nothing is known"


def test_hostile_text_is_inert(hostile: Path) -> None:
    page = (hostile / "report.html").read_text()
    text = (hostile / "report.md").read_text()
    seen = Seen(page)
    assert not seen.tags & {"script", "iframe", "object", "embed", "form", "input", "link"}
    for name, value in seen.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href"):
            assert value.startswith(("data:image/svg+xml;base64,", "#section-")), value
    assert "<script>document.title='owned'</script>" in seen.text, "shown as it was written"
    for shown in (page, text):
        assert "\u202e" not in shown
        assert "\x1b" not in shown
        assert "\\u202e" in shown
    markdown = Seen(MarkdownIt("commonmark").enable("table").render(text))
    assert not markdown.tags & {"script", "b"}
    assert all(not name.startswith("on") for name, _ in markdown.attributes)
    links = [value for name, value in markdown.attributes if name in ("src", "href")]
    assert links
    assert all(value.startswith("figures/") for value in links), links


def test_policy_allows_nothing_but_the_pages_own_style(hostile: Path) -> None:
    page = (hostile / "report.html").read_text()
    policy = next(value for name, value in Seen(page).attributes if "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http:" not in page
    assert "https:" not in page.replace("http-equiv", "")


def test_unfinished_run_names_what_is_missing(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "fkd-small-0123456789ab"
    write_json(run / "config.json", CONFIG | {"tasks": {"names": ["dolly"], "probes": ["loss"]}})
    append_rows(run / "train" / "metrics.jsonl", training()[:5])
    report = write_report(run)
    assert {stage.name: stage.missing for stage in report.missing} == {
        "prepare": "not begun",
        "train": "not finished (5 steps logged)",
        "evaluate dolly": "not begun",
        "probe loss": "not measured",
        "summarise": "no summary.json yet",
    }
    text = (run / "report" / "report.md").read_text()
    assert "Not finished. Missing: prepare: not begun; train: not finished" in text
    assert "Nothing was evaluated." in text
    assert (run / "report" / "figures" / "training.svg").is_file(), "what there is, is drawn"
    for name, reason in report.left_out.items():
        assert reason, name
    assert "Exposure bias: left out, exposure bias was not measured" in text


def test_an_evaluated_model_was_not_trained(runs: Path) -> None:
    report = write_report(runs / "eval-teacher-0123456789ab")
    assert report.missing == []
    assert "nothing was trained" in report.left_out["training"]
    assert "nothing was trained" in report.left_out["quality-cost"]


def test_choice_of_samples_is_fixed() -> None:
    rows = scores(30.0)  # all prompts have the same mean: ties go to the lower id
    assert [(c.why, c.row.doc_id) for c in choose(rows)] == [
        ("best", 0), ("median", 6), ("worst", 11), ("by id", 1), ("by id", 2),
    ]  # fmt: skip
    assert choose(rows[::-1]) == choose(rows)
    alone = choose(rows[:1])
    assert [(c.why, c.row.doc_id) for c in alone] == [("best", 0)]
    assert choose([]) == []


def test_exit_codes(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as done:
            cli.main(["report", *arguments])
        return int(done.value.code or 0)

    finished = runs / "eval-teacher-0123456789ab"
    assert run(str(finished), "--out", str(tmp_path / "out"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["missing"] == {}
    assert all(Path(path).is_file() for path in document["files"])
    shutil.rmtree(finished / "eval")
    assert run("teacher", "--runs-dir", str(runs)) == 1
    assert "not done: evaluate dolly: not begun" in capsys.readouterr().out
    assert run(str(tmp_path / "nothing")) == 2
    with pytest.raises(InputError, match="no run folder"):
        write_report(tmp_path)


def test_markdown_keeps_tables_whole() -> None:
    table = Table(
        ["a|b", "n"], [[Code("x|`y"), "<i>"], [("one ", Code("two")), "3\n4"]], right=(1,)
    )
    document = Document("T", [Section("S", [table, Paragraph(Code(""))])])
    assert write(document, "md") == (
        "# T\n\n## S\n\n| a\\|b | n |\n|:---|---:|\n| `x\\|'y` | \\<i\\> |\n| one `two` | 3 4 |\n\n"
        "`none`\n"
    )


@pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="no Chromium here")
def test_a_browser_runs_nothing_and_asks_for_nothing(hostile: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 800})
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto((hostile / "report.html").as_uri())
        page.wait_for_load_state("networkidle")
        assert page.title().endswith("on mini")
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert said == [], "a broken policy or picture is reported here"
        widths = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
        assert widths
        assert all(width > 0 for width in widths)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
