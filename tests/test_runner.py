"""Runs from the command line down, at test size: results, refusals, and what lies in a run folder."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lm_eval
import pytest
import runs
import tiny
import torch
import yaml
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Manifest, Summary
from kdbench.harness.files.store import read_record, read_rows
from kdbench.harness.runner import commands

Kdbench = Callable[..., tuple[int, str, str]]


MINI = ("--suite", "mini-test", "--tasks", "dolly")


def refused(result: tuple[int, str, str]) -> str:
    """The sentence of a refusal: exit 2, one line, no traceback."""
    code, out, err = result
    assert code == 2, (code, out, err)
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    return lines[0]


def test_training_is_out_of_memory_before_the_evaluation(
    kdbench: Kdbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = (PreTrainedModel, torch.optim.Optimizer)
    alive: list[str] = []

    def look(*_: object, **__: object) -> None:
        found = [type(o) for o in gc.get_objects() if issubclass(type(o), kinds)]
        alive.extend(kind.__name__ for kind in found)
        raise InputError("that was all")

    monkeypatch.setattr(commands, "evaluate_into", look)
    code, _, said = kdbench("run", *MINI, "--method", "fkd", "--runs-dir", tmp_path)
    assert code == 2 and "that was all" in said
    assert alive == []


def test_run_prints_the_comparison_and_leaves_a_whole_folder(
    kdbench: Kdbench, tmp_path: Path
) -> None:
    code, out, _ = kdbench("run", *MINI, "--method", "jsd", "--runs-dir", tmp_path)
    assert code == 0
    for row in ("truth", "teacher", "sft-init", "jsd"):
        assert row in out
    assert "dolly[mini-test:8]" in out and "signature:" in out and "next: kdbench" in out
    (run,) = tmp_path.glob("jsd-*")
    summary = read_record(run / "summary.json", Summary)
    (scores,) = summary.scores.values()
    assert scores.task == "dolly" and scores.edition == "mini-test:8"
    assert summary.learned["dev_loss_last"] < summary.learned["dev_loss_before"]
    manifest = read_record(run / "manifest.json", Manifest)
    assert manifest.init is not None and manifest.data["train"]["kept"] > 0
    assert manifest.cost["train"].planned_mb > 1.0  # beside peak_mb

    for reference in tmp_path.glob("eval-*"):
        assert "train_seed" not in read_record(reference / "summary.json", Summary).signature

    def written() -> dict[Path, int]:
        names = ("summary.json", "manifest.json", "config.json")
        return {p: p.stat().st_mtime_ns for name in names for p in tmp_path.glob(f"*/{name}")}

    before, as_written = runs.results(run), written()
    assert len(as_written) == 12
    assert kdbench("run", *MINI, "--method", "jsd", "--runs-dir", tmp_path)[0] == 0
    assert runs.results(run) == before  # the same command is the same run, already done
    assert written() == as_written  # nor does it sign what others evaluated

    for name in ("summary.json", "manifest.json"):  # as if killed before it could write them
        (run / name).unlink()
    assert kdbench("run", *MINI, "--method", "jsd", "--runs-dir", tmp_path)[0] == 0
    costs = read_record(run / "summary.json", Summary).cost
    for stage, cost in summary.cost.items():
        assert (costs[stage].wall_s, costs[stage].tokens) == (cost.wall_s, cost.tokens)

    code, out, _ = kdbench("score", tmp_path)
    assert code == 0 and "scored 4 evaluations of 4 runs" in out
    assert runs.results(run) == before  # scores from stored samples equal those of the run
    assert read_record(run / "summary.json", Summary).scores == summary.scores

    code, out, _ = kdbench("eval", run, "--tasks", "selfinst")
    assert code == 0 and "selfinst[mini-test:8]" in out
    assert {key.split("@")[0] for key in read_record(run / "summary.json", Summary).scores} == {
        "dolly",
        "selfinst",
    }

    code, out, _ = kdbench("leaderboard", tmp_path, "--format", "csv")
    assert code == 0 and "jsd" in out
    code, out, _ = kdbench("show", run)
    assert code == 0 and "jsd" in out
    code, out, _ = kdbench("show", run, "--sample", "1")
    assert code == 0 and "seed 20" in out


def test_train_then_run_goes_on(kdbench: Kdbench, tmp_path: Path) -> None:
    code, out, _ = kdbench(
        "train", "--suite", "mini-test", "--method", "sft", "--runs-dir", tmp_path, "--json"
    )
    student = Path(json.loads(out)["student"])
    assert code == 0 and (student / "model.safetensors").is_file()
    weights = (student / "model.safetensors").read_bytes()
    assert kdbench("run", *MINI, "--method", "sft", "--runs-dir", tmp_path)[0] == 0
    assert (student / "model.safetensors").read_bytes() == weights


def test_students_load_without_kdbench(kdbench: Kdbench, tmp_path: Path) -> None:
    """With plain transformers, and with lm-eval's own ``hf`` model on a task of its own."""
    kdbench("train", "--suite", "mini-test", "--method", "sft", "--runs-dir", tmp_path / "runs")
    (student,) = tmp_path.glob("runs/sft-*/train/student")
    tokenizer = AutoTokenizer.from_pretrained(student)
    ids = tokenizer("Name a feast.", return_tensors="pt")
    answer = AutoModelForCausalLM.from_pretrained(student).generate(**ids, max_new_tokens=4)
    assert answer.shape[1] > ids.input_ids.shape[1]

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Name a feast.", "answer": " the lamp feast."}\n' * 3)
    task = {
        "task": "from_outside",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(tmp_path / "hf")},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(student)},
        tasks=["from_outside"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        device="cpu",
        bootstrap_iters=0,
    )
    answers = [sample["resps"][0][0] for sample in found["samples"]["from_outside"]]
    assert len(answers) == 3 and len(set(answers)) == 1  # greedy, so equal prompts agree


def test_metrics_rows_are_complete(kdbench: Kdbench, tmp_path: Path) -> None:
    text = ("--set", "method.lm_coef=0.1")
    kdbench("train", "--suite", "mini-test", "--method", "dpkd", *text, "--runs-dir", tmp_path)
    (run,) = tmp_path.glob("dpkd-*")
    rows = read_rows(run / "train" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(rows[-1]["step"] + 1))
    last = rows[-1]
    assert {"pair", "pair/margin", "pair/chosen_nll", "text"} <= last["terms"].keys()
    assert last["tokens"]["sampled"] > 0 and last["evaluation"]["dev_rouge_l"] >= 0


def write_data(folder: Path, rows: list[str], split: str = "train") -> Path:
    (folder / "dolly").mkdir(parents=True, exist_ok=True)
    (folder / "dolly" / f"{split}.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return folder


GOOD = '{"instruction": "say yes", "input": "", "output": "yes"}'


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([GOOD, '{"instruction": "no end'], "train.jsonl:2"),
        ([GOOD, '{"input": "x", "output": "y"}'], "train.jsonl:2"),
        ([GOOD, '{"instruction": "x", "input": ""}'], "train.jsonl:2"),
    ],
)
def test_malformed_data_is_named_by_file_and_line(
    rows: list[str], sentence: str, kdbench: Kdbench, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", rows)
    write_data(data, [GOOD], "dev")
    said = refused(
        kdbench(
            *("run", *MINI, "--method", "sft", "--runs-dir", tmp_path / "runs"),
            *("--data-dir", data, "--set", "data.train=dolly", "--set", "data.dev=dolly"),
        )
    )
    assert sentence in said
    assert not list((tmp_path / "runs").glob("*"))


def test_missing_data_says_where_it_looked(kdbench: Kdbench, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    said = refused(
        kdbench(
            *("run", *MINI, "--method", "sft", "--runs-dir", tmp_path / "runs"),
            *("--data-dir", tmp_path / "data", "--set", "data.train=dolly"),
        )
    )
    assert "dolly" in said and str(tmp_path / "data") in said and "--data-dir" in said


@pytest.mark.parametrize(
    ("arguments", "offered"),
    [
        (("--method", "dpdk"), "dpkd"),
        (("--method", "sft", "--suite", "mimi"), "mini"),
        (("--method", "sft", "--tasks", "doly"), "dolly"),
        (("--method", "sft", "--set", "train.batchsize=3"), "train.batch_size"),
        (("--method", "dpkd", "--set", "method.betta=3"), "method.beta"),
    ],
)
def test_unknown_names_offer_the_nearest(
    arguments: tuple[str, ...], offered: str, kdbench: Kdbench, tmp_path: Path
) -> None:
    base = [] if "--suite" in arguments else ["--suite", "mini-test"]
    said = refused(kdbench("run", *base, *arguments, "--runs-dir", tmp_path))
    assert offered in said
    assert not list(tmp_path.iterdir())


def test_folder_that_is_no_model(kdbench: Kdbench, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = refused(
        kdbench(
            *("run", *MINI, "--method", "fkd", "--runs-dir", tmp_path / "runs"),
            *("--student", tmp_path / "empty"),
        )
    )
    assert str(tmp_path / "empty") in said and "config.json" in said
    assert not list((tmp_path / "runs").iterdir())


def test_different_tokenizers_are_refused(kdbench: Kdbench, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<eos>", *map(str, range(tiny.VOCAB - 2))])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        eos_token="<eos>",
        pad_token="<pad>",
    )
    tiny.model("llama").save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    said = refused(
        kdbench(
            *("run", *MINI, "--method", "fkd", "--runs-dir", tmp_path / "runs"),
            *("--student", tmp_path / "other"),
        )
    )
    assert "tokenizer" in said and "sft" in said
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(kdbench: Kdbench, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    said = refused(kdbench("run", *MINI, "--method", "sft", "--runs-dir", tmp_path / "runs"))
    assert str(tmp_path) in said


def test_device_that_is_not_there(kdbench: Kdbench, tmp_path: Path) -> None:
    said = refused(
        kdbench("run", *MINI, "--method", "sft", "--runs-dir", tmp_path, "--device", "cuda:77")
    )
    assert "cuda:77" in said


def test_output_folder_that_is_a_file(kdbench: Kdbench, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    said = refused(kdbench("run", *MINI, "--method", "sft", "--runs-dir", tmp_path / "runs"))
    assert str(tmp_path / "runs") in said


def test_second_process_on_the_same_run_is_refused(kdbench: Kdbench, tmp_path: Path) -> None:
    kdbench("train", "--suite", "mini-test", "--method", "sft", "--runs-dir", tmp_path)
    (run,) = tmp_path.glob("sft-*")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom kdbench.harness.files.locks import RunLock\n"
            "with RunLock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()",
            str(run),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        said = refused(kdbench("run", *MINI, "--method", "sft", "--runs-dir", tmp_path))
        assert str(run) in said and str(holder.pid) in said
    finally:
        holder.communicate()
