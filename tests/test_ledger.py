"""The ledger: which runs count for a published number, and what it says of them."""

import json
from pathlib import Path
from typing import Any

import fakes
import pytest

from kdbench.harness import cli
from kdbench.harness.files.records import ModelRef
from kdbench.harness.files.shipped import SUITES
from kdbench.harness.resolve import resolve
from kdbench.reports import ledger as module
from kdbench.reports.board import build
from kdbench.reports.columns import Cell
from kdbench.reports.documents.ledger import ledger_document
from kdbench.reports.ledger import Ledger, LedgerRow
from kdbench.reports.published.numbers import load_numbers, load_settings
from kdbench.reports.text.formats import write

XL = ModelRef(name="gpt2-xl", fingerprint="x" * 64, parameters=1_557_611_200)
BASE = ModelRef(name="gpt2", fingerprint="y" * 64, parameters=124_439_808)
CARD = {"suite": "minillm-gpt2-120m", "regime": "paper", "teacher": XL, "student": BASE}
DECODING = {"max_new_tokens": 256}
"""As the suites decode."""
FULL: dict[str, Any] = {
    "edition": "full",
    "protocol": "minillm-compat",
    "card": CARD,
    "evaluation": {"decoding": DECODING},
}


def ledger(paths: list[Path]) -> Ledger:
    return module.ledger(paths, lambda suite, method: resolve(suite=suite, method=method))


def render_terminal(found: Ledger, *, everything: bool = False) -> str:
    return write(ledger_document(found, everything=everything), "terminal", width=1000)


def render_markdown(found: Ledger) -> str:
    return write(ledger_document(found), "md")


def make_run(
    runs: Path, method: str, *args: Any, changes: list[str] | None = None, **k: Any
) -> Path:
    """A run of a published suite: its configuration is the suite's, but for ``--set`` changes."""
    run = fakes.make_run(runs, method, *args, **(FULL | k))
    suite = json.loads((run / "summary.json").read_text())["run"]["suite"]
    trained = "sft" if method == "teacher" else method
    config = resolve(suite=suite, method=trained, assignments=changes or [])
    fakes.write(run / "config.json", config.model_dump(mode="json"))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def row(
    found: Ledger, method: str, task: str = "dolly", metric: str = "rougeL", setting: str = "main"
) -> LedgerRow:
    (one,) = [
        r
        for r in found.rows
        if (r.number.method, r.number.task, r.number.metric, r.number.setting)
        == (method, task, metric, setting)
        and r.number.pair.startswith("GPT-2")
        and r.number.paper == "MiniLLM"
        and "120M" in r.number.pair
    ]
    return one


def test_data_is_sound() -> None:
    numbers, settings, known = load_numbers(), load_settings(), set(SUITES.names())
    assert len(numbers) == 266
    for number in numbers:
        assert set(number.suites) <= known, number
        assert set(number.causes) <= set(settings.causes), number
        family, sizes = number.pair.split(" ", 1)
        assert all(f"{family} {size}" in settings.parameters for size in sizes.split(" → "))
    (table,) = [n for n in numbers if n.paper == "DPKD" and "IPO" in n.setting]
    assert (table.value, table.digits, table.options["form"]) == (18.78, 2, "ipo")


def test_numbers_are_those_of_the_reference(reference_dir: Path) -> None:
    import csv

    with open(reference_dir / "published.csv", encoding="utf-8") as file:
        published = list(csv.DictReader(file))
    ours = [(n.paper, n.method, n.value) for n in load_numbers()]
    assert ours == [(r["paper"].split()[0], r["method"], float(r["value"])) for r in published]


def test_without_runs_every_number_is_not_run() -> None:
    found = ledger([])
    assert {r.verdict for r in found.rows} == {"not run"}
    assert len(found.rows) == 260 and len(found.unreproducible) == 6
    text = render_terminal(found)
    assert "260 published numbers: not run 260" in text and "no run of dpkd-opt-1.3b" in text
    assert "next: kdbench run --suite minillm-gpt2-120m --method sft" in text


def test_agrees_and_differs(runs: Path) -> None:
    make_run(runs, "fkd", level=22.8, prompts=500)
    make_run(runs, "seqkd", level=30, prompts=500)
    make_run(
        runs,
        "teacher",
        None,
        level=27.6,
        prompts=400,
        card=CARD | {"student": XL, "teacher": None},
    )
    found = ledger([runs])
    agrees, differs = row(found, "fkd"), row(found, "seqkd")
    assert agrees.verdict == "agrees" and agrees.low is not None and agrees.high is not None
    assert agrees.low - 0.05 <= 22.8 <= agrees.high + 0.05 and agrees.n_prompts == 500
    assert differs.verdict == "differs" and differs.causes
    assert row(found, "fkd", "vicuna").reason.startswith("not evaluated on vicuna[full]")
    assert row(found, "fkd", metric="gpt4_feedback").verdict == "not run"
    (teacher,) = [
        r
        for r in found.rows
        if r.number.pair == "GPT-2 1.5B"
        and r.number.paper == "MiniLLM"
        and (r.number.task, r.number.metric) == ("dolly", "rougeL")
    ]
    assert teacher.verdict == "agrees" and "ours has 400 prompts" in teacher.causes[0]
    for text in (render_terminal(found), render_markdown(found)):
        assert "differs" in text and "22.8" in text and "agrees 2, differs 1, not run 257" in text


def test_an_interval_is_the_boards(runs: Path) -> None:
    """Also of one training seed, which borrows the variance of the others."""
    for method, levels in (
        ("fkd", (21.0, 22.8, 24.6)),
        ("seqkd", (28.0, 30.5, 32.0)),
        ("sft", (25.0,)),
    ):
        for seed, level in enumerate(levels):
            make_run(runs, method, 10 * len(method) + seed, level=level, prompts=500)
    found = ledger([runs])
    (table,) = build(runs, metrics=["rouge_l"]).board.tables
    assert table.tests[0] is not None and table.tests[0].seeds == "pooled"
    for whose, (cell,) in zip(table.rows, table.cells, strict=True):
        ours = row(found, whose.method)
        assert isinstance(cell, Cell) and (ours.ours, ours.low, ours.high) == (
            cell.mean,
            cell.low,
            cell.high,
        )
    assert {len(whose.training_seeds) for whose in table.rows} == {1, 3}


def test_a_published_student_was_not_trained_under_our_seeds(runs: Path) -> None:
    """What a seed does to all methods is in no interval of a board, and in those beside other people's."""
    for place, (method, level) in enumerate({"fkd": 22.0, "seqkd": 25.0, "sft": 20.0}.items()):
        for seed in range(4):
            own = 0.1 * ((seed + place) % 3)
            make_run(runs, method, 10 + seed, level=level + own + 2 * seed, prompts=500)
    (table,) = build(runs, metrics=["rouge_l"]).board.tables
    found = ledger([runs])
    for whose, (cell,) in zip(table.rows, table.cells, strict=True):
        ours = row(found, whose.method)
        assert isinstance(cell, Cell) and cell.low is not None and cell.high is not None
        assert ours.low is not None and ours.high is not None
        wide, narrow = ours.high - ours.low, cell.high - cell.low
        assert wide > 2 * narrow and wide > 2 * 1.5 * 2.58, "t of 3 df, four seeds, sd 2.58"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"edition": "full:40"}, "only on full:40 under minillm-compat"),
        ({"protocol": "strict"}, "only on full under strict"),
        ({"card": CARD | {"student": fakes.INIT}}, "other models: ours has 0.1M"),
        ({"card": CARD | {"suite": "mini"}}, "no run of minillm-gpt2-120m"),
    ],
)
def test_a_run_that_is_not_the_papers_does_not_count(
    runs: Path, change: dict[str, Any], reason: str
) -> None:
    make_run(runs, "fkd", level=22.8, **change)
    found = row(ledger([runs]), "fkd")
    assert found.verdict == "not run" and reason in found.reason


def test_options_decide_between_a_method_and_its_ablations(runs: Path) -> None:
    for level, options in ((24.6, {}), (14.7, {"length_norm": False})):
        run = make_run(runs, "minillm", level=level, prompts=500)
        settings = {"length_norm": True, "teacher_mix": 0.2, "single_step": True} | options
        fakes.edit(run / "config.json", {"method.options": settings})
    found = ledger([runs])
    without = row(found, "minillm", setting="ablation: without length normalisation")
    assert (without.verdict, row(found, "minillm").verdict) == ("agrees", "agrees")
    assert without.runs != row(found, "minillm").runs
    mixed = row(found, "minillm", setting="ablation: without teacher-mixed sampling")
    assert "only with another setting than teacher_mix 0" in mixed.reason


def test_only_a_gpt4_judge_counts(runs: Path) -> None:
    run = make_run(runs, "fkd", level=22.8)
    (place,) = run.glob("eval/*")
    estimate = {"mean": 41.0, "low": 39.0, "high": 43.0, "n_prompts": 500}
    entry = {"task": "dolly", "edition": "full", "protocol": "minillm-compat"}
    judged = {
        name: {
            "model": model,
            "evaluations": {place.name: entry | {"metrics": {"feedback": estimate}}},
        }
        for name, model in (("a", "llama-70b"), ("b", "gpt-4-0613"))
    }
    fakes.edit(run / "summary.json", {"judge": {"a": judged["a"]}})
    assert "llama-70b" in row(ledger([runs]), "fkd", metric="gpt4_feedback").reason
    fakes.edit(run / "summary.json", {"judge": judged})
    assert row(ledger([runs]), "fkd", metric="gpt4_feedback").verdict == "agrees"


def test_length_buckets_and_values_without_an_interval(runs: Path) -> None:
    card = CARD | {"suite": "dpkd-gpt2-120m"}
    estimate = {"mean": 5.5, "low": 4.0, "high": 7.0, "n_prompts": 250}
    buckets = {"student": {"dpkd": {"(0,30)": {"n": 250, "metrics": {"exact_match": estimate}}}}}
    run = make_run(runs, "dpkd", probes={"text": {"buckets": buckets}}, card=card)
    options = {"form": "dpo", "length_norm": True, "lm_coef": 0.5}
    fakes.edit(run / "config.json", {"method.options": options})
    verdicts = {
        r.number.setting: r.verdict
        for r in ledger([runs]).rows
        if r.number.metric == "exact_match" and r.number.method == "dpkd"
    }
    assert verdicts["references of under 30 tokens"] == "agrees"
    assert verdicts["references of over 70 tokens"] == "not run"
    one = make_run(runs, "minillm")
    fakes.edit(one / "summary.json", {"learned": {"dev_rouge_l_selected": 27.0}})
    dev = row(ledger([runs]), "minillm", "dolly dev", setting="ablation: full")
    assert (dev.verdict, dev.ours, dev.low) == ("undecided", 27.0, None)


def test_verb(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(runs, "fkd", level=22.8)
    out = tmp_path / "ledger.md"
    for arguments, code in (
        (["ledger", runs], 0),
        (["ledger", "--runs-dir", tmp_path / "none"], 0),
        (["ledger", runs, "--format", "md", "--out", out], 0),
        (["ledger", runs, "--format", "pdf"], 2),
        (["ledger", tmp_path / "none"], 2),
        (["ledger", runs, "--suite", "minillm-gpt2-120m", "--json"], 0),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(a) for a in arguments])
        assert int(caught.value.code or 0) == code, arguments
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 48
    assert out.read_text().startswith("# Published numbers and ours")


def place_again(run: Path, level: float, seeds: list[int], **decoding: Any) -> None:
    """Another evaluation of the same task in a run folder, under other decoding seeds."""
    fields = {"seeds": seeds, "decoding": DECODING | decoding}
    twin = fakes.make_run(
        run.parent / "twins", "fkd", level=level, prompts=500, **(FULL | {"evaluation": fields})
    )
    (place,) = twin.glob("eval/*")
    place.rename(run / "eval" / place.name)
    scores = json.loads((twin / "summary.json").read_text())["scores"]
    summary = json.loads((run / "summary.json").read_text())
    fakes.write(run / "summary.json", summary | {"scores": summary["scores"] | scores})


def test_evaluations_and_judges_of_one_run_are_no_training_seeds(runs: Path) -> None:
    run = make_run(runs, "fkd", level=25, prompts=500)
    entry = {"task": "dolly", "edition": "full", "protocol": "minillm-compat", "metrics": {}}
    (key,) = (place.name for place in run.glob("eval/*"))
    judges = {name: {"model": name, "evaluations": {key: entry}} for name in ("a", "b")}
    fakes.edit(run / "summary.json", {"judge": judges})
    place_again(run, 22.8, [10, 20, 30, 40, 50])
    place_again(run, 30, [10, 20, 30, 40, 50, 60])
    place_again(run, 40, [10, 20, 30, 40, 50], temperature=0.0)
    found = row(ledger([runs]), "fkd")
    assert (found.n_runs, found.decoding_seeds) == (1, [10, 20, 30, 40, 50]), "the suite's own"
    assert found.verdict == "agrees" and found.ours == pytest.approx(22.8, abs=0.5)


@pytest.mark.parametrize(
    "change", ["data.limit=100", "train.lr=1e-3", "method.kd_ratio=1.0", "init_sft.epochs=1"]
)
def test_a_run_trained_otherwise_than_its_suite_says_does_not_count(
    runs: Path, change: str
) -> None:
    method = "minillm" if "init" in change else "fkd"
    make_run(runs, method, changes=[change])
    found = row(ledger([runs]), method)
    assert found.verdict == "not run" and change.partition("=")[0] in found.reason
    make_run(runs, method, changes=["train.seed=3", "train.micro_tokens=512"])
    assert row(ledger([runs]), method).verdict != "not run"


def test_a_teacher_of_less_data_does_not_count(runs: Path) -> None:
    card = CARD | {"student": XL, "teacher": None}
    make_run(runs, "teacher", None, card=card, changes=["data.limit=100"])
    assert "data.limit 100" in render_terminal(ledger([runs]), everything=True)


def test_every_form_has_the_signature(runs: Path) -> None:
    make_run(runs, "fkd", prompts=500)
    found = ledger([runs])
    for field in ("training seeds: 1 (below 2", "decoding seeds: 10,20", "prompts: dolly=500"):
        assert field in found.signature
    for text in (render_terminal(found), render_markdown(found), found.model_dump_json()):
        assert found.signature in text
