"""Catalogue, protocols and lm-eval task files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from kdbench.harness.data.examples import examples_sha256
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.names import Asked, asked_tasks, tasks_of
from kdbench.harness.evaluation.rehearsal import check_task_data
from kdbench.harness.resolve import resolve
from kdbench.tasks import catalogue, docs, protocols
from kdbench.tasks.labels import LABEL_TASKS

TASKS = ("dolly", "selfinst", "vicuna", "sni", "unni")


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Two made-up rows of every real set, where the documentation says they are."""
    paths = ("dolly/valid", "self-inst/valid", "vicuna/valid", "sinst/valid_11_", "uinst/valid_11_")
    for path in paths:
        file = tmp_path / f"{path}.jsonl"
        file.parent.mkdir(parents=True)
        rows = [
            {"instruction": f"Name a colour of {path}.", "input": "", "output": "Red or green."},
            {"instruction": "Sort.", "input": "b a", "output": ["a b", "b, a"], "topic": "sorting"},
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def manager(**metadata: object) -> TaskManager:
    return TaskManager(
        include_path=str(catalogue.YAML_FOLDER), include_defaults=False, metadata=metadata
    )


def test_every_task_file_is_indexed_under_its_own_name() -> None:
    # lm-eval skips files that it cannot parse without a word
    files = sorted(p for p in catalogue.YAML_FOLDER.glob("*.yaml") if not p.name.startswith("_"))
    expected = [f"kdbench_{task}_{edition}" for task in TASKS for edition in ("mini", "full")]
    expected += [task.lm_eval_name for task in LABEL_TASKS.values()]
    found = manager()
    assert found.all_tasks == sorted(expected)
    assert len(files) == len(expected)
    assert {found.task_index[name].yaml_path for name in expected} == set(files)


def test_every_full_task_loads(data_folder: Path) -> None:
    names = [f"kdbench_{task}_full" for task in TASKS]
    loaded = manager(data_dir=str(data_folder)).load(names)["tasks"]
    assert list(loaded) == names
    for name, task in loaded.items():
        check(name, task)
        assert len(task.eval_docs) == 2
        assert task.doc_to_text(task.eval_docs[0]).endswith("### Response:\n")


@pytest.mark.parametrize("task", TASKS)
def test_every_mini_task_loads(task: str) -> None:
    pytest.importorskip("kdbench.tasks.mini", reason="the mini world is not built yet")
    name = f"kdbench_{task}_mini"
    loaded = manager().load([name])["tasks"][name]
    check(name, loaded)
    assert len(loaded.eval_docs) > 10
    assert loaded.doc_to_text(loaded.eval_docs[0]).endswith(" Response : ")


def check(name: str, task: object) -> None:
    """What every task of ours must say to lm-eval."""
    config = task.config  # type: ignore[attr-defined]
    assert config.task == name
    assert callable(config.process_results)
    assert config.generation_kwargs["until"] == []
    assert config.generation_kwargs["top_k"] == 0
    assert config.generation_kwargs["do_sample"] is True
    assert config.generation_kwargs["temperature"] == 1.0
    assert config.num_fewshot == 0
    assert {m["metric"] for m in config.metric_list} == {"rouge_l", "exact_match"}
    doc = task.eval_docs[0]  # type: ignore[attr-defined]
    assert isinstance(task.doc_to_target(doc), str)  # type: ignore[attr-defined]
    scores = task.process_results(doc, [doc["references"][0]])  # type: ignore[attr-defined]
    assert scores == {"rouge_l": 100.0, "exact_match": 100.0}


def test_all_references_count_in_process_results() -> None:
    doc = {"references": ["a b", "b a"]}
    assert docs.process_results(doc, ["b, a"]) == {"rouge_l": 100.0, "exact_match": 100.0}
    assert docs.process_results(doc, [["b, a"]])["exact_match"] == 100.0
    assert docs.process_results(doc, [""]) == {"rouge_l": 0.0, "exact_match": 0.0}


@pytest.mark.slow
def test_plain_lm_eval_runs_a_task(data_folder: Path, tmp_path: Path) -> None:
    command = [
        "-m", "lm_eval", "--model", "dummy", "--tasks", "kdbench_sni_full",
        "--include_path", str(catalogue.YAML_FOLDER), "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = {**os.environ, "KDBENCH_DATA": str(data_folder)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rouge_l" in done.stdout


def test_editions_have_names_of_their_own() -> None:
    assert catalogue.split_edition("full:40") == ("full", 40)
    assert catalogue.join_edition("full", 40) == "full:40"
    assert catalogue.join_edition(*catalogue.split_edition("mini-2")) == "mini-2"
    for bad in ("ful", "full:0", "full:x", "full:", "full:-1"):
        with pytest.raises(InputError):
            catalogue.split_edition(bad)


def test_limits_take_the_first_rows(data_folder: Path) -> None:
    rows = catalogue.task_examples("dolly", "full:1", data_dir=data_folder)
    assert [row.doc_id for row in rows] == [0]
    both = catalogue.task_examples("dolly", "full", limit=5, data_dir=data_folder)
    assert len(both) == 2
    assert examples_sha256(rows) != examples_sha256(both)
    with pytest.raises(InputError, match="leaves no prompts"):
        catalogue.task_examples("dolly", "full", limit=0, data_dir=data_folder)


def test_names_are_parted_and_unknown_ones_refused(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: my_own_task\ntag:\n  - mine\n")
    names = ["sni", "arc_easy", "dolly", "my_own_task", "cls", "mine"]
    found = asked_tasks(names, [tmp_path])
    assert [task.name for task in found] == names
    assert [task.kind for task in found] == [
        *("text", "lm-eval", "text", "lm-eval", "labels", "lm-eval"),
    ]
    assert asked_tasks(["own/My test.jsonl", "mine=a/b.json"]) == [
        Asked("my-test", "file", "own/My test.jsonl"),
        Asked("mine", "file", "a/b.json"),
    ]
    for names, says in [
        (["doly"], "did you mean dolly"),
        (["dolly", "arc_esy"], "arc_easy"),
        (["my_own_tsk"], "no task is called"),
        (["dolly", "dolly"], "given twice"),
        (["own/dolly.jsonl"], "give it a name of its own, as in mytest=own/dolly.jsonl"),
        (["a b=own.jsonl"], "a file cannot be called 'a b'"),
        (["x.jsonl", "y/x.jsonl"], "given twice"),
    ]:
        with pytest.raises(InputError, match=says):
            asked_tasks(names)
    with pytest.raises(InputError, match="include path"):
        asked_tasks(["my_own_task"], [tmp_path / "none"])


def test_who_asks_names_a_task_and_who_only_trains_none() -> None:
    config = resolve(suite="mini-test", method="sft", flags={"tasks.names": ()})
    assert tasks_of(config.tasks) == []
    with pytest.raises(InputError, match="no tasks given; name some by --tasks"):
        check_task_data(config, None, print)


def test_protocols_are_the_documented_two() -> None:
    compat, strict = protocols.MINILLM_COMPAT, protocols.STRICT
    assert (compat.no_repeat_ngram, strict.no_repeat_ngram) == (6, 0)
    assert compat.evaluation_rule.over_long == "cut"
    assert strict.evaluation_rule.over_long == "drop"
    assert compat.max_new_tokens == 256
    short = strict.limited(max_prompt=40, max_length=64)
    assert (short.name, short.max_new_tokens, short.evaluation_rule.max_prompt) == (
        "strict",
        24,
        40,
    )
    with pytest.raises(InputError, match="did you mean strict"):
        protocols.get_protocol("strikt")
    assert protocols.get_protocol("minillm-compat") is compat
