"""What ``distill`` shows and writes is what it trains by: ``--set``, and test rows that are too long."""

import json
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from own_models import chat_model, chats
from study_requests import study_request

from kdbench.harness.errors import InputError
from kdbench.harness.own.tasks import task_rows
from kdbench.harness.resolve import resolve
from kdbench.harness.runner.rows import load_rows
from kdbench.harness.study.distill import preparation
from kdbench.harness.study.distill.asked import without_columns
from kdbench.harness.study.distill.budget import Budget
from kdbench.harness.study.distill.command import write_study
from kdbench.harness.study.distill.preparation import (
    DistillRequest,
    Prepared,
    prepare_distillation,
)
from kdbench.harness.study.distill.telling import _data, _settings, shown

SETTINGS = (
    *("train.lr=0.5", "train.steps=7", "train.schedule=constant", "train.max_prompt=96"),
    *("method.temperature=2", "generate.seeds=[1]", "init_sft.lr=0.25", "tasks.limit=3"),
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and rows with test rows of which some are long."""
    folder = tmp_path_factory.mktemp("pair")
    chat_model(folder / "teacher")
    short = chats(folder / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in short[:10]]
    talks = [{"messages": row["messages"] * (1 + place % 3)} for place, row in enumerate(rows * 4)]
    (folder / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks))
    for name, long in (("some", rows[:2]), ("all", rows)):
        for row in long:
            row["messages"][0]["content"] = " ".join([row["messages"][0]["content"]] * 40)
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def request(
    pair: Path,
    *settings: str,
    test: str | None = None,
    budget: Budget | None = None,
    **making: Any,
) -> DistillRequest:
    making = study_request(pair / "runs", settings=settings, keep_going=True, **making)
    return DistillRequest(
        teacher=str(pair / "teacher"),
        student="prune:1",
        data=str(pair / "rows.jsonl"),
        test=test and str(pair / f"{test}.jsonl"),
        methods=("sft", "fkd", "gkd"),
        budget=budget,
        seeds=(10,),
        columns={},
        out=pair / "out",
        making=making,
    )


def test_the_suite_says_by_itself_what_was_set(pair: Path) -> None:
    settings = [text for text in SETTINGS if not text.startswith("method.")]
    asked = request(pair, *settings)
    prepared = prepare_distillation(asked)
    suite = write_study(asked, prepared).suite
    for method in ("sft", "fkd", "gkd"):
        by_itself = resolve(suite=suite, method=method)
        assert by_itself == resolve(suite=suite, method=method, assignments=settings)
        assert (by_itself.train.lr, by_itself.train.steps) == (0.5, 7)
        assert by_itself.train.response_tokens is None and by_itself.train.schedule == "constant"
        assert by_itself.init_sft is not None
        assert (by_itself.init_sft.lr, by_itself.init_sft.schedule) == (0.25, "cosine")
    assert "train.lr: 0.5 (asked for)" in Path(suite).read_text()


def test_fields_of_methods_are_in_the_suite(pair: Path) -> None:
    prepared = prepare_distillation(request(pair, *SETTINGS))
    methods = yaml.safe_load(yaml.safe_dump(prepared.suite))["methods"]
    assert methods["fkd"]["method"] == {"temperature": 2}
    rows = {str(row[0]): row[1:] for row in _settings(prepared).rows}
    for text in SETTINGS:
        key, _, value = text.partition("=")
        assert rows[key] == [value, "asked for"]
    assert "train.response_tokens" not in rows


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [("train.learning_rate=1", "did you mean train.lr"), ("train.lr=fast", r"train\.lr: .*'fast'")],
)
def test_a_wrong_setting_is_refused_at_once(pair: Path, setting: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        prepare_distillation(request(pair, setting))


def told(prepared: Prepared, asked: DistillRequest) -> str:
    return "\n".join(line for line in _data(asked, prepared) if "too long" in line)


def test_test_rows_that_are_left_out_are_counted(pair: Path) -> None:
    asked = request(pair, "train.max_prompt=64", test="some")
    assert told(prepare_distillation(asked), asked) == (
        "too long: 2 test rows left out, with prompts of over 64 tokens"
    )
    asked = request(pair, "train.max_prompt=64", "tasks.protocol=minillm-compat", test="some")
    assert "2 test rows cut to their first 64" in told(prepare_distillation(asked), asked)
    with pytest.raises(InputError, match="all 10 test rows have prompts of over 64 tokens"):
        prepare_distillation(request(pair, "train.max_prompt=64", test="all"))


def test_lengths_are_chosen_for_test_prompts_too(pair: Path) -> None:
    own = prepare_distillation(request(pair)).training["max_prompt"]
    longer = prepare_distillation(request(pair, test="some")).training["max_prompt"]
    assert longer > own


def test_columns_that_are_shown_are_trained(pair: Path, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"q {i}", "output": f"draft {i}", "final": f"final {i}"} for i in range(30)
    ]
    file, tests = tmp_path / "two.jsonl", tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tests.write_text("".join(json.dumps({"q": "x", "a": f"y {i}"}) + "\n" for i in range(4)))
    columns = (
        "data.columns=prompt=instruction,response=final",
        "tasks.columns=prompt=q,response=a",
    )
    for test in (None, str(tests)):
        asked = replace(request(pair, *columns), data=str(file), out=tmp_path / "out")
        asked = replace(asked, test=test)
        prepared = prepare_distillation(asked)
        answers = {*chain(*(example.references for example in prepared.train))}
        assert answers <= {row["final"] for row in rows}
        suite = write_study(asked, prepared).suite
        settings = without_columns(asked.making.settings, written=test is None)
        config = resolve(suite=suite, method="sft", assignments=settings)
        found = load_rows(config, None)
        assert {*chain(*(each.references for each in (*found.train, *found.dev)))} == answers
        place = config.tasks.names[0].partition("=")[2]
        assert [e.references for e in task_rows(place, config).examples] == [
            e.references for e in prepared.test
        ]


def test_prompts_are_shown_and_measured_as_settings_write_them(pair: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(pair / "teacher", teacher)
    template = teacher / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if loud is defined %}{{ ', ' * 40 }}{% endif %}")
    plain = replace(request(pair), teacher=str(teacher))
    loud = replace(request(pair, "data.template_arguments={loud: true}"), teacher=str(teacher))
    quiet, said = prepare_distillation(plain), prepare_distillation(loud)
    assert said.facts.prompts.mean == quiet.facts.prompts.mean + 40
    assert said.training["max_prompt"] > quiet.training["max_prompt"]
    assert shown(said)[0].count(",") >= 40 > shown(quiet)[0].count(",")
    own = [f"data.train={pair / 'rows.jsonl'}", "pair.student=prune:1", f"pair.teacher={teacher}"]
    lengths = [
        resolve(suite="own", method="sft", assignments=[*own, *more]).train.max_prompt
        for more in ((), ("data.template_arguments={loud: true}",), ("pair.template=alpaca",))
    ]
    assert lengths[0] < lengths[1]
    alpaca = prepare_distillation(request(pair, "pair.template=alpaca"))
    assert alpaca.facts.prompts.mean != prepare_distillation(request(pair)).facts.prompts.mean
    assert alpaca.form.template == "alpaca" and alpaca.training["max_prompt"] == lengths[2]
    with pytest.raises(InputError, match="--set pair: template"):
        prepare_distillation(request(pair, "pair.template=mine"))


def test_development_rows_are_those_of_the_run(pair: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "dev"):
        shutil.copy(pair / "rows.jsonl", folder / f"{split}.jsonl")
    asked = replace(request(pair, test="some"), data=str(folder))
    said = [line for line in _data(asked, prepare_distillation(asked)) if line.startswith("dev")]
    assert len(said) == 1 and "split dev" in said[0] and said[0].endswith("; 60 rows")
    asked = replace(asked, test=None)
    assert "dev: every tenth of the rows" in "\n".join(_data(asked, prepare_distillation(asked)))
    asked = request(pair, f"data.dev={pair / 'some.jsonl'}")
    assert f"dev: {pair / 'some.jsonl'}" in [*_data(asked, prepare_distillation(asked))]


def test_a_budget_of_time_is_counted_for_the_device_that_trains(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = Budget("seconds", 3600.0)
    with pytest.raises(InputError, match="no such device as 'gpu'"):
        prepare_distillation(request(pair, device="gpu"))
    with pytest.raises(InputError, match="no such device as 'gpu'"):
        prepare_distillation(request(pair, device="gpu", executor="slurm:gpus=1"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch sees no device 'cuda'"):
            prepare_distillation(request(pair, device="cuda"))
    with pytest.raises(InputError, match=r"60 minutes .* --executor slurm .* 3ep or 5Mtok"):
        prepare_distillation(request(pair, budget=hour, executor="slurm:gpus=1"))
    away = prepare_distillation(request(pair, device="cuda", executor="slurm:gpus=1"))
    assert away.facts.device == "cuda"

    tokens = []
    for kind, speed in (("cpu", 1e9), ("cuda", 4e9), ("cpu", 8e9)):
        monkeypatch.setattr(preparation, "_device", lambda _, at=(kind, speed): at)
        asked = request(pair, budget=hour)
        prepared = prepare_distillation(asked)
        asked.out.mkdir(exist_ok=True)
        preparation.keep_chosen(asked, prepared)
        tokens.append(prepared.chosen.tokens)
    assert tokens[0] != tokens[1] != tokens[2]  # what was counted for another device is not kept


def test_rows_are_read_and_cut_as_settings_say(pair: Path) -> None:
    asked = request(pair, "data.limit=20")
    prepared = prepare_distillation(asked)
    assert prepared.facts.rows == 20 and len(prepared.test) == 6
    assert "split: 20 rows to learn from, 6 held out" in "\n".join(_data(asked, prepared))
    write_study(asked, prepared)
    assert len((pair / "out" / "data" / "train.jsonl").read_text().splitlines()) == 54
    own = [f"data.train={pair / 'talks.jsonl'}", "pair.student=prune:1"]
    own.append(f"pair.teacher={pair / 'teacher'}")
    for settings in ((), ("data.limit=20",), ("data.turns=last",), ("data.unique=true",)):
        one = resolve(suite="own", method="sft", assignments=[*own, *settings]).train
        talks = replace(request(pair, *settings, test="some"), data=str(pair / "talks.jsonl"))
        train = prepare_distillation(talks).training
        assert train["response_tokens"] == one.response_tokens
        assert train["batch_size"] == one.batch_size
    with pytest.raises(InputError, match="--set data: limit"):
        prepare_distillation(request(pair, "data.limit=0"))
