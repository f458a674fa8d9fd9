"""Fair-comparison rules: each is broken by some run and then named; closed and open on the board."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fakes
import pytest
from board_runs import build_board

from kdbench.harness import cli
from kdbench.harness.data.examples import Example, load_jsonl
from kdbench.harness.data.overlaps import shared_ngrams
from kdbench.harness.errors import InputError
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import make_folder, read_json
from kdbench.reports.compare import compare
from kdbench.reports.documents.board import board_document
from kdbench.reports.rules.check import judge_runs, rulebook
from kdbench.reports.rules.report import check_document, check_runs
from kdbench.reports.runs import finished_runs
from kdbench.reports.text.formats import write
from kdbench.tasks.scoring import SCORER

Edit = Mapping[str, Mapping[str, Any]]
"""File of the run folder -> dotted key -> new value; DOLLY stands for the key of its evaluation."""

OTHER = "f" * 64
BREAKERS: dict[str, Edit] = {
    "regime": {"config.json": {"regime": "paper"}},
    "teacher": {"prepare.json": {"teacher.fingerprint": OTHER}},
    "init": {"prepare.json": {"init.fingerprint": OTHER}},
    "training data": {"prepare.json": {"data.train.sha256": OTHER}},
    "development data": {"prepare.json": {"data.dev.sha256": OTHER}},
    "plain text": {
        "prepare.json": {"data": {"train": {"sha256": "train rows"}, "dev": {"sha256": "dev rows"}}}
    },
    "budget": {"config.json": {"train.response_tokens": 640_000}},
    "tokens trained": {"summary.json": {"cost.train.tokens.response": 280_000}},
    "selection": {"config.json": {"train.select": "max:test_rouge_l"}},
    "dev is no test": {"prepare.json": {"overlaps.dev&dolly": 5}},
    "tuning": {"config.json": {"tuning": None}},
    "decoding seeds": {"evaluation.json": {"seeds": [10, 30]}},
    "decoding": {"evaluation.json": {"decoding.temperature": 0.7}},
    "test data": {"evaluation.json": {"data_sha256": OTHER}},
    "scorer": {"summary.json": {"scores.DOLLY.scorer": "2"}},
    "prompts": {},  # a row taken away, see below
    "judge": {"summary.json": {"judge": {"other-judge": {"mode": "pointwise"}}}},
    "probes": {"summary.json": {"probes.DOLLY.exposure.samples": 1}},
    "test prompts in training": {"prepare.json": {"overlaps.train&dolly": 5}},
    "near copies in training": {"prepare.json": {"overlaps.train~dolly": 11}},
    "trials": {"config.json": {"tuning": {"trials": 4, "by": "search", "share": 0.25}}},
}
SEARCHED: Edit = {"config.json": {"tuning": {"trials": 8, "by": "search", "share": 0.25}}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs that pass every rule, one more training seed, and a reference."""
    folder = tmp_path / "runs"
    judged = {"a-judge": {"mode": "pointwise"}}
    for method in ("dpkd", "fkd", "sft"):
        fakes.make_run(folder, method, judge=judged, probes={"exposure": {"samples": 10}})
    fakes.make_run(folder, "dpkd", 2, judge=judged)
    fakes.make_run(folder, "teacher", None)
    return folder


def change(run: Path, edits: Edit) -> None:
    for name, values in edits.items():
        (evaluation,) = RunFolder(run).evaluations()
        path = run / name if name != "evaluation.json" else evaluation.path / name
        fakes.edit(path, {k.replace("DOLLY", evaluation.key): v for k, v in values.items()})


def test_runs_alike_are_closed_and_references_are_not_judged(runs: Path) -> None:
    report = check_runs([runs], "closed-v2")
    assert {run.run.split("-")[0]: run.division for run in report.runs} == {
        "dpkd": "closed",
        "fkd": "closed",
        "sft": "closed",
        "teacher": "reference",
    }
    text = write(check_document(report), "terminal")
    assert "4 closed, 0 open; 1 reference model is not judged" in text
    assert text.startswith("closed-v2, fake: big → small\n")


def test_every_rule_has_a_breaker() -> None:
    assert list(BREAKERS) == [rule.name for rule in rulebook().rules]


@pytest.mark.parametrize("rule", BREAKERS)
def test_a_run_that_breaks_a_rule_is_named(runs: Path, rule: str) -> None:
    (broken,) = runs.glob("fkd-*")
    if rule == "trials":
        for run in runs.glob("*-*"):
            if not run.name.startswith("teacher"):
                change(run, SEARCHED)
    change(broken, BREAKERS[rule])
    if rule == "prompts":
        (scores,) = broken.glob("eval/*/scores.jsonl")
        scores.write_text("".join(scores.read_text().splitlines(keepends=True)[1:]))
    report = check_runs([runs], "closed-v2")
    found = {run.run: run.broken for run in report.runs if run.broken}
    assert found == {broken.name: [rule]}
    text = write(check_document(report), "terminal", width=1000)
    (line,) = [line for line in text.splitlines() if line.startswith(f"{rule}: ")]
    assert broken.name in line and ": found " in line and ", expected " in line


def test_equal_searches_stand_beside_settings_found_by_hand(runs: Path) -> None:
    for run in runs.glob("fkd-*"):
        change(run, SEARCHED)
    assert not check_runs([runs], "closed-v2").broken
    (half,) = runs.glob("sft-*")
    change(half, {"config.json": {"tuning": SEARCHED["config.json"]["tuning"] | {"share": 0.5}}})
    (broken,) = (run for run in check_runs([runs], "closed-v2").runs if run.broken)
    assert broken.broken == ["trials"]


@pytest.mark.parametrize("name", ["config.json", "prepare.json"])
def test_what_is_not_recorded_is_not_closed(runs: Path, name: str) -> None:
    (bare,) = runs.glob("sft-*")
    (bare / name).unlink()
    judged = {run.run: run for run in check_runs([runs], "closed-v2").runs}
    assert judged[bare.name].division == "open"
    assert sum(run.division == "closed" for run in judged.values()) == 3


def test_an_init_of_its_own_seed_is_no_difference(runs: Path) -> None:
    for run in runs.glob("dpkd-*"):
        if json.loads((run / "config.json").read_text())["train"]["seed"] == 2:
            change(run, BREAKERS["init"])
    assert not check_runs([runs], "closed-v2").broken


def test_runs_of_a_teacher_that_was_trained_anew_are_compared_with_each_other(runs: Path) -> None:
    """As on the board: another teacher of the same name breaks no rule, it has a table of its own."""
    for method in ("dpkd", "fkd"):
        run = fakes.make_run(runs, method)
        change(run, BREAKERS["teacher"])
        fakes.edit(run / "summary.json", {"run.teacher.fingerprint": OTHER})
    report = check_runs([runs], "closed-v2")
    broken = {judged.run: judged.broken for judged in report.runs if judged.broken}
    assert not any("teacher" in names for names in broken.values()), broken
    groups = {judged.group for judged in report.runs if judged.division != "reference"}
    assert len(groups) == 2 and f"fake: big {OTHER[:8]} → small" in groups
    newer = next(t for t in build_board(runs).tables if t.teacher == f"big {OTHER[:8]}")
    assert [row.label for row in newer.rows if row.kind == "run"] == ["dpkd", "fkd"]


def test_the_value_of_most_runs_counts(runs: Path) -> None:
    for run in sorted(runs.glob("dpkd-*")) + sorted(runs.glob("fkd-*")):
        change(run, BREAKERS["budget"])
    found, _ = finished_runs([runs])
    broken = [judged.run for judged in judge_runs(found).values() if judged.broken]
    assert [name.split("-")[0] for name in broken] == ["sft"]


def test_another_evaluation_of_the_same_task_does_not_hide_the_shared_one(runs: Path) -> None:
    (run,) = runs.glob("fkd-*")
    (place,) = run.glob("eval/*")
    twin = place.with_name("dolly@00000000")
    twin.mkdir()
    for file in place.iterdir():
        (twin / file.name).write_text(file.read_text())
    fakes.edit(twin / "evaluation.json", {"seeds": [1, 2, 3]})
    summary = json.loads((run / "summary.json").read_text())
    summary["scores"]["dolly@00000000"] = summary["scores"][place.name]
    fakes.write(run / "summary.json", summary)
    assert not check_runs([runs], "closed-v2").broken


def test_the_board_shows_division_and_broken_rules(runs: Path, tmp_path: Path) -> None:
    (broken,) = runs.glob("fkd-*")
    change(broken, BREAKERS["budget"] | {"prepare.json": {"init.fingerprint": OTHER}})
    (table,) = build_board([runs], cache=tmp_path / "cache").tables
    rows = {row.method: (row.division, row.broken, row.label) for row in table.rows}
    assert rows["fkd"] == ("open", ["init", "budget"], "fkd (open)")
    assert rows["dpkd"][:2] == ("closed", [])
    assert rows["teacher"][:2] == ("reference", [])


def test_kdbench_check_exits_3_and_names_the_rule(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kdbench("check", runs) == 0
    (broken,) = runs.glob("fkd-*")
    change(broken, BREAKERS["selection"])
    capsys.readouterr()
    assert kdbench("check", runs) == 3
    assert f"selection: {broken.name}: found max:test_rouge_l" in capsys.readouterr().out
    assert kdbench("check", runs, "--json") == 3
    document = json.loads(capsys.readouterr().out)
    assert [run["broken"] for run in document["runs"] if run["broken"]] == [["selection"]]
    assert kdbench("check", runs, "--rules", "closed-v9") == 2
    assert "did you mean closed-v2" in capsys.readouterr().err


def test_a_run_alone_is_compared_with_those_beside_it(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (broken,) = runs.glob("fkd-*")
    change(broken, BREAKERS["budget"])
    assert kdbench("check", broken) == 3
    out = capsys.readouterr().out
    assert f"budget: {broken.name}: found" in out and "dpkd" not in out and "not tested" not in out
    (other,) = runs.glob("sft-*")
    assert kdbench("check", other) == 0, "only the run that was asked for is reported"


def test_rules_of_sameness_are_not_passed_by_a_run_without_others(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = runs.glob("sft-*")
    run.rename(make_folder(tmp_path / "alone") / run.name)
    assert kdbench("check", tmp_path / "alone" / run.name) == 0
    out = capsys.readouterr().out
    assert "teacher and student: teacher, init, training data" in out
    assert "1 closed, 0 open; 1 compared with no other run" in out
    (judged,) = check_runs([tmp_path / "alone"], "closed-v2").runs
    assert "tokens trained" in judged.untested and "regime" not in judged.untested
    assert not any(judged.untested for judged in check_runs([runs], "closed-v2").runs)


def kdbench(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def test_rules_of_the_users_own(runs: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "version: own\nrules:\n  - {name: short, says: few, fact: budget, one_of: [x]}\n"
    )
    report = check_runs([runs], str(own))
    assert report.rules == "own" and all(
        run.broken == ["short"] for run in report.runs if run.division != "reference"
    )
    text = write(board_document(build_board([runs], rules=rulebook(str(own)))), "md")
    assert "open: dpkd, fkd, sft (breaks short)" in text
    own.write_text("version: own\nrules:\n  - {name: short, says: few, fact: budget}\n")
    with pytest.raises(InputError, match="exactly one of"):
        rulebook(str(own))


def example(instruction: str, answer: str = "yes", text: str = "") -> Example:
    return Example(0, instruction, text, (answer,))


LONG = "Please explain in your own words why the river that runs past the old mill floods in spring"


def test_a_test_prompt_planted_in_training_is_found() -> None:
    train = [example(f"What is {i} plus {i}?", str(2 * i)) for i in range(200)]
    tests = {"t": [example(LONG), example("Name the largest lake of the country."), example("Hi")]}
    assert shared_ngrams(train, tests) == {"t": 0}
    near = LONG.replace("river that", "small river which")  # two words of eighteen are others
    for planted, count in (
        (example(LONG), 1),
        (example("Repeat after me.", answer=f"well: {near.upper()}"), 0),
        (example("Repeat after me.", answer=f"well: {LONG.upper()}"), 1),
        (example("NAME the largest lake, of the country"), 1),  # too short for a 13-gram
    ):
        assert shared_ngrams([*train, planted], tests) == {"t": count}, planted


def test_a_prompt_in_a_script_without_spaces_is_found_in_a_longer_row() -> None:
    asked = "请用你自己的话解释为什么老磨坊旁边的河在春天会泛滥"
    planted = example("请重复", answer=f"好的{asked}谢谢")
    other = example("请重复", answer="好的请用别人的话说一说为什么今天的天气这么热，明天会不会下雨")
    assert shared_ngrams([planted], {"t": [example(asked)]}) == {"t": 1}
    assert shared_ngrams([other], {"t": [example(asked)]}) == {"t": 0}


def test_ngrams_do_not_span_rows() -> None:
    words = LONG.split()
    halves = [example(" ".join(words[:9])), example(" ".join(words[9:]))]
    assert shared_ngrams(halves, {"t": [example(LONG)]}) == {"t": 0}


def test_known_overlaps_of_the_published_split_are_within_the_rules(data_dir: Path) -> None:
    train = load_jsonl(data_dir / "dolly" / "train.jsonl")
    test = load_jsonl(data_dir / "dolly" / "valid.jsonl")
    assert shared_ngrams(train, {"dolly": test}) == {"dolly": 19}
    (rule,) = [rule for rule in rulebook().rules if rule.fact == "ngram_overlap"]
    assert rule.at_most is not None and 19 / len(test) <= rule.at_most


@pytest.mark.parametrize("planted", [0, 1])
def test_a_run_on_planted_data_is_open(planted: int, tmp_path: Path) -> None:
    """A real run at test size whose training file holds some of its test prompts."""
    from kdbench.tasks import mini
    from kdbench.tasks.catalogue import task_examples

    rows = mini.rows("train", size="mini-test")
    for test in task_examples("dolly", "mini-test")[: 8 * planted]:
        rows.append(
            {"instruction": test.instruction, "input": test.input, "output": test.references[0]}
        )
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = tmp_path / "runs"
    arguments = ["--suite", "mini-test", "--method", "sft", "--runs-dir", runs, "--quiet"]
    assert (
        kdbench("train", *arguments, "--set", f"data.train={file}", "--set", "data.dev=mini-test")
        == 0
    )
    assert kdbench("eval", *runs.glob("sft-*"), "--tasks", "dolly,vicuna", "--quiet") == 0
    (run,) = check_runs([runs], "closed-v2").runs
    assert run.broken == (
        ["test prompts in training", "near copies in training"] if planted else []
    )


def test_a_statement_about_tuning_or_other_tasks_split_no_row(runs: Path) -> None:
    run = next(runs.glob("dpkd-*"))
    fakes.edit(run / "config.json", {"tuning.trials": 8, "tasks": {"names": ["dolly"]}})
    (table,) = build_board([runs]).tables
    assert [row.training_seeds for row in table.rows if row.method == "dpkd"] == [[1, 2]]


def test_scoring_again_by_another_scorer_is_seen(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples keep their key, so what scored them last is known from the scores alone."""
    (run,), (other,) = runs.glob("fkd-*"), runs.glob("sft-*")
    (place,) = run.glob("eval/*")
    Stage(place, "generate").mark(info={"counts": {"dropped": 0}})
    trained = read_json(run / "summary.json")["cost"]["train"]
    RunFolder(run).training.stage.mark(info=trained)
    record = (place / "evaluation.json").read_bytes()
    assert kdbench("score", run) == 0
    assert (place / "evaluation.json").read_bytes() == record
    (scores,) = read_json(run / "summary.json")["scores"].values()
    assert scores["scorer"] == SCORER
    assert place.name == next(other.glob("eval/*")).name, "the same key"
    for book in (True, False):
        judged = judge_runs(finished_runs([runs])[0], strict=book)
        broken = {verdict.run: verdict.broken for verdict in judged.values() if verdict.broken}
        assert broken == {run.name: ["scorer"]}
    (table,) = build_board([runs]).tables
    assert len({column.identity for column in table.columns}) == 2
    with pytest.raises(InputError, match=f"scorer {re.escape(SCORER)} and 1"):
        compare(run, other)
