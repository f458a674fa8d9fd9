"""One document in every format: nothing lost, nothing run, every line within its width."""

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pandas
import pytest
from board_runs import write_run
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from kdbench.harness.cli import app
from kdbench.harness.errors import InputError
from kdbench.harness.resolve import resolve
from kdbench.harness.study.definition import Cell, load_study
from kdbench.harness.study.plan import Estimate, Plan, PlannedCell, plan_document
from kdbench.harness.study.state import State
from kdbench.reports.ablation import About, Given, build_ablation
from kdbench.reports.board import build
from kdbench.reports.claims.document import claims_document
from kdbench.reports.claims.judge import judge_claims
from kdbench.reports.compare import compare
from kdbench.reports.documents.ablation import ablation_document
from kdbench.reports.documents.board import board_document
from kdbench.reports.documents.compare import compare_document
from kdbench.reports.documents.ledger import ledger_document
from kdbench.reports.ledger import ledger
from kdbench.reports.rules.report import check_document, check_runs
from kdbench.reports.text.csv import csv_text, frame
from kdbench.reports.text.document import (
    Answer,
    Block,
    Code,
    Document,
    Note,
    Notes,
    Paragraph,
    Picture,
    Sample,
    Section,
    Small,
    Strong,
    Table,
)
from kdbench.reports.text.formats import write
from kdbench.reports.text.html import write_html
from kdbench.reports.text.style import number, p_value, signature, signed
from kdbench.reports.text.terminal import ENDLESS, Terminal
from kdbench.reports.text.writer import split

FORMATS = ("terminal", "md", "latex", "csv", "html")
EVIL = "\x1b[2J\x9b1m\u202e <script>x</script> \\input{y} |*_`$&% [a](javascript:b) ```\n--- 漢字"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Document]]:
    """What each verb shows of a few runs with settings of their own."""
    base = tmp_path_factory.mktemp("documents")
    runs = base / "runs"
    patch = pytest.MonkeyPatch()
    patch.setenv("KDBENCH_CACHE", str(base / "cache"))
    levels = {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30, "dpkd": 24}
    for method, level in levels.items():
        fakes.make_run(runs, method, level=level, tasks=["dolly", "selfinst", "vicuna", "sni"])
    changes = {"settings": "other", "changes": ["a_long_setting=value", "train.lr=0.0005"]}
    fakes.make_run(runs, "minillm", 2, level=33, tasks=["dolly", "selfinst"], card=changes)
    fakes.make_run(runs, "teacher", None, level=60)
    study = load_study("minillm")
    labels = [row.label for row in study.all_rows()]
    config = resolve(suite="mini-test", method="sft")
    cells = [
        Cell(label=f"{label}, and more", seed=seed, arguments=(), config=config)
        for label in labels
        for seed in (10, 20)
    ]
    states = [State("to do", None, None), State("partial", None, None, ("selfinst", "vicuna"))]
    guess = Estimate(95.0, "guess")
    plan = Plan([PlannedCell(cell, states[i % 2], guess) for i, cell in enumerate(cells)])
    given = [Given(f"a long label of {m}", [next(runs.glob(f"{m}-*"))]) for m in ("sft", "dpkd")]
    sides = [next(runs.glob(f"{method}-*")) for method in ("dpkd", "fkd")]

    def suite_says(suite: str, method: str) -> Any:
        return resolve(suite=suite, method=method)

    yield {
        "board": board_document(build(runs).board, headline=True),
        "compare": compare_document(compare(*sides)),
        "claims": claims_document(judge_claims([runs])),
        "ledger": ledger_document(ledger([], suite_says), everything=False),
        "every number": ledger_document(ledger([], suite_says)),
        "plan": plan_document(study, plan, 2),
        "check": check_document(check_runs([runs], "closed-v1")),
        "ablation": ablation_document(
            build_ablation(given, title="A study", base=given[0].label, about=About("fake"))
        ),
    }
    patch.undo()


NAMES = ("board", "compare", "claims", "ledger", "every number", "plan", "check", "ablation")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", NAMES)
def test_terminal_lines_fit_and_no_word_is_lost(
    documents: dict[str, Document], name: str, width: int
) -> None:
    whole = write(documents[name], "terminal", width=ENDLESS)
    narrow = write(documents[name], "terminal", width=width)
    assert max(map(len, narrow.splitlines())) <= width
    shown = "".join(narrow.split())
    assert [word for word in whole.split() if word not in shown] == []
    assert "…" not in narrow.replace("… (", "")


def test_a_terminal_too_narrow_for_a_word_breaks_it() -> None:
    table = Table(["name", "number"], [["x" * 50, "1" * 30]], right=(1,))
    text = Terminal(20).write(Document("", [Section("", [table])]))
    assert max(map(len, text.splitlines())) <= 20
    assert (text.count("x"), text.count("1")) == (50, 30)


def test_a_wide_table_is_cut_between_groups_with_its_keys() -> None:
    table = Table(
        ["row", *(f"{n}{i}" for n in "ab" for i in range(2)), "alone"],
        [["r", "1", "2", "3", "4", "5"]],
        right=range(1, 6),
        groups=["", "a", "a", "b", "b", ""],
    )
    parts = split(table, lambda part: len(part.head) <= 4)
    assert [part.head for part in parts] == [["row", "a0", "a1"], ["row", "b0", "b1", "alone"]]
    assert parts[1].rows == [["r", "3", "4", "5"]] and list(parts[1].right) == [1, 2, 3]
    (alone, *_) = split(table, lambda part: len(part.head) <= 2)
    assert alone.head == ["row", "a0"]


def hostile() -> Document:
    cells = (EVIL, Code(EVIL), Strong(EVIL, "*"), Small(EVIL), Note(EVIL))
    table = Table([EVIL, "b"], [[EVIL, cells], [cells, ""]], groups=[EVIL, ""], references=1)
    parts = [
        Paragraph(cells), table, Notes([cells], EVIL), Block(EVIL), Picture("p", EVIL, EVIL),
        Sample(EVIL, EVIL, [Answer(EVIL, EVIL, EVIL)]),
    ]  # fmt: skip
    return Document(EVIL, [Section(EVIL, parts)], [{"evil": EVIL, "sum": "=1+1"}])


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "html"])
def test_no_format_sends_what_a_terminal_obeys(format: str) -> None:
    text = write(hostile(), format)
    assert [c for c in text if not c.isprintable() and c not in "\n\t"] == []


def test_foreign_text_is_no_markup() -> None:
    markdown = MarkdownIt("commonmark").enable("table").render(write(hostile(), "md"))
    assert "<script" not in markdown and 'href="javascript' not in markdown
    page = write_html(hostile(), {"p": b"<svg/>"})
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    assert page.count("<sup>a</sup>") == 4, "footnotes are the same letter everywhere"
    latex = [line for line in write(hostile(), "latex").split("\n") if not line.startswith("% ")]
    assert "\\input{y}" not in "\n".join(latex) and "\\textbackslash{}input" in "\n".join(latex)
    (row,) = pandas.read_csv(io.StringIO(write(hostile(), "csv"))).to_dict("records")
    assert row["sum"] == "'=1+1"


def test_lists_and_brackets_at_the_start_of_a_line_are_text() -> None:
    parts = [Paragraph("- no item"), Table(["x"], [["[1]"], ["*"]]), Notes(["[95%]", "1. none"])]
    document = Document("", [Section("", parts)])
    shown = MarkdownIt("commonmark").render(write(document, "md"))
    assert "<li>" not in shown and "<p>- no item</p>" in shown and "\n1. none</p>" in shown
    latex = write(document, "latex")
    assert "\n{}[1] \\\\" in latex and "\n{}* \\\\" in latex and "\\footnotesize {}[95" in latex


def test_the_best_stands_first_in_every_text(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for method, level in {"a": 20.0, "b": 50.0, "c--d[x]": 40.0}.items():
        write_run(runs, method, level)
    write_run(runs, "teacher", 10, kind="eval", division="reference", training_seed=None)
    document = board_document(build(runs, cache=tmp_path / "cache").board)
    for format in ("terminal", "md", "latex"):
        text = write(document, format)
        text = text[text.index("ROUGE-L") :]  # behind the headline
        names = re.findall(r"^(?:\| \*?)?(teacher|a|b|c-.*?d.*?x\S*?)\*? ", text, re.MULTILINE)
        assert [name[0] for name in names] == ["t", "b", "c", "a"], format
    latex = write(document, "latex")
    latex = latex[latex.index("\\multicolumn{2}{c}{dolly") :]
    assert "\\multicolumn{2}{c}{dolly[mini]}" in latex and "{[}" not in latex
    assert "c-{}-d[x] & " in latex
    assert latex.count("\\textbf{") == 2 and re.search(r"^b & \\textbf\{", latex, re.MULTILINE)


def test_latex_of_every_document_compiles(documents: dict[str, Document], tmp_path: Path) -> None:
    pdflatex, finder = shutil.which("pdflatex"), shutil.which("kpsewhich")
    if not pdflatex or not finder:
        pytest.skip("no pdflatex on this machine")
    if subprocess.run([finder, "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("pdflatex is here without its booktabs package")
    body = "\n\n".join(write(d, "latex") for d in (*documents.values(), hostile()))
    (tmp_path / "all.tex").write_text(
        f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\n"
        "\\end{document}\n"
    )
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_p_is_written_one_way(documents: dict[str, Document]) -> None:
    assert [p_value(p) for p in (0.0, 0.00009, 0.0001, 0.03124, 1.0)] == [
        "<0.0001", "<0.0001", "0.0001", "0.0312", "1.0000",
    ]  # fmt: skip
    for name in ("compare", "claims", "ablation"):
        text = write(documents[name], "terminal", width=ENDLESS)
        assert re.search(r"  (<0\.0001|[01]\.\d{4})\b", text), name
        assert not re.search(r"p [<=.]|<\.0|(?<![\d.])\.\d", text), name


def test_no_negative_zero_and_the_metrics_digits() -> None:
    assert number(-0.04, "rouge_l") == "0.0" and number(-0.0004, "acc") == "0.000"
    assert signed(-0.04, "rouge_l") == "+0.0" and signed(-0.06, "rouge_l") == "−0.1"


def test_footnotes_are_explained_once_after_their_tables() -> None:
    def table(*reasons: str) -> Table:
        return Table(["x"], [[("–", Note(reason))] for reason in reasons])

    sections = [
        Section("one", [table("why"), table("because", "why"), Notes(["line"], "sig")]),
        Section("two", [table("other")]),
    ]
    text = write(Document("", sections), "terminal")
    assert text == (
        "one\n\nx\n– a\n\nx\n– b\n– a\n\nline\na: why\nb: because\nsignature: sig\n\n"
        "two\n\nx\n– a\n\na: other\n"
    )
    letters = write(Document("", [Section("", [table(*map(str, range(28)))])]), "md")
    assert "<sup>z</sup>" in letters and "<sup>ab</sup>" in letters


def test_frames_keep_types_and_csv_is_written_from_them() -> None:
    rows = [
        {"n": 1, "mean": 2.0, "seeds": [1, 2], "bold": True, "of": {"a": "x"}},
        {"n": None, "mean": None, "seeds": [], "bold": None, "late": "=cmd"},
    ]
    table = frame(rows)
    assert dict(table.dtypes.astype(str)) | {"seeds": "", "of.a": "", "late": ""} == {
        "n": "Int64", "mean": "Float64", "seeds": "", "bold": "boolean", "of.a": "", "late": "",
    }  # fmt: skip
    assert csv_text(table) == "n,mean,seeds,bold,of.a,late\n1,2.0,1 2,1,x,\n,,,,,'=cmd\n"
    assert csv_text(frame([])) == "\n"
    signs = ["-1 2.5 -3e-05", "-1-1", "+x", "@x", "-" + "1" * 5000 + "x"]
    assert csv_text(frame([{"a": sign} for sign in signs])).split("\n")[1:-1] == [
        signs[0], *(f"'{sign}" for sign in signs[1:]),
    ]  # fmt: skip


def test_csv_of_documents_has_every_result(documents: dict[str, Document]) -> None:
    for name in ("board", "claims", "ledger", "ablation"):
        read = pandas.read_csv(io.StringIO(write(documents[name], "csv")))
        assert len(read) == len(documents[name].rows) > 0, name
    claims = pandas.read_csv(io.StringIO(write(documents["claims"], "csv")))
    assert set(claims["verdict"]) >= {"not measured"} and claims["test.p_holm"].notna().any()


def test_one_signature() -> None:
    line = signature(
        {"suite": "s", "protocol": ""},
        training=[1, 3],
        decoding=[[20, 10], [], [20, 10]],
        prompts=[("dolly", 40), ("dolly", 38), ("sni", 5)],
        how={"interval": "bootstrap"},
    )
    assert re.fullmatch(
        r"kdbench: \S+ \| suite: s \| protocol: none \| training seeds: 1,3 \(below 2: training "
        r"variance unmeasured\) \| decoding seeds: 20,10 \| prompts: dolly=38/40,sni=5 \| "
        r"interval: bootstrap \| rng: PCG64, .*",
        line,
    )


@pytest.mark.parametrize("verb", ["ledger", "claims"])
@pytest.mark.parametrize("format", FORMATS)
def test_the_same_option_gives_every_format(tmp_path: Path, verb: str, format: str) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    for method in ("minillm", "sft"):
        fakes.make_run(runs, method)
    arguments = [verb, str(runs), "--format", format]
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0 and len(printed.output) > 500
    assert CliRunner().invoke(app, [*arguments, "--out", str(out)]).exit_code == 0
    if format != "terminal":  # which has the width of a file there
        assert out.read_text().rstrip("\n") == printed.output.rstrip("\n")


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(InputError, match="unknown format 'pdf'; choose one of terminal, md, "):
        write(Document("", []), "pdf")
