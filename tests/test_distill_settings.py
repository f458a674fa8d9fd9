"""What ``distill`` shows and writes is what it trains by: ``--set``, and test rows that are too long."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from own_models import chat_model, chats
from study_requests import study_request

from kdbench.harness.errors import InputError
from kdbench.harness.resolve import resolve
from kdbench.harness.study.distill import preparation
from kdbench.harness.study.distill.budget import Budget
from kdbench.harness.study.distill.command import write_study
from kdbench.harness.study.distill.preparation import (
    DistillRequest,
    Prepared,
    prepare_distillation,
)
from kdbench.harness.study.distill.telling import _data, _settings

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
