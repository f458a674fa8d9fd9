"""vLLM as an engine: the same samples as ours, today's weights, and sentences where it cannot answer."""

import json
import resource
import shutil
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaForCausalLM

from kdbench.harness.errors import CellFailed, InputError
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.types import Answer, Decoding, Prompt
from kdbench.trainers.vllm import process as running
from kdbench.trainers.vllm.about import about
from kdbench.trainers.vllm.agreement import replayed
from kdbench.trainers.vllm.engine import (
    VllmEngine,
    check_dtype,
    kv_bytes,
    write_weights,
    written_bytes,
)
from kdbench.trainers.vllm.process import INTERPRETER, Process, between, check_installed
from kdbench.trainers.vllm.worker import Answerer

DECODING = Decoding(max_new_tokens=24, seed=7)
WAYS = {
    "sampled": DECODING,
    "filtered": replace(DECODING, temperature=0.8, top_p=0.9, top_k=20, no_repeat_ngram=3),
    "greedy": replace(DECODING, temperature=0.0),
}


def loaded(family: str = "llama", *, tied: bool = True, **sizes: int) -> LoadedModel:
    made = tiny.model(family, tied=tied, **sizes)
    words = Vocabulary(size=tiny.VOCAB, eos_ids=(tiny.EOS,), pad_id=0)
    return LoadedModel(model=made, vocabulary=words, batch_size=5, chunk=8)


def prompts(count: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randint(2, tiny.VOCAB, (2 + i % 9,), generator=generator) for i in range(count)]
    return [Prompt(tuple(ids.tolist()), key=100 + i) for i, ids in enumerate(drawn)]


def all_answers(
    engine: LoadedModel | VllmEngine, asked: list[Prompt], how: Decoding
) -> list[Answer]:
    return list(chain.from_iterable(engine.answers(asked, how)))


# -- without vLLM ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_our_own_answers_replay_as_ours(how: Decoding) -> None:
    model, asked = loaded(), prompts(6)
    answers = all_answers(model, asked, how)
    found = replayed(model, asked, answers, how)
    assert (found.answers, found.equal, found.differing) == (6, 6, 0)
    assert found.tokens == sum(len(a.ids) for a in answers) > 30
    assert found.holds(torch.float32) and "6 of 6" in str(found)


def test_another_model_other_noise_and_one_other_token_are_seen() -> None:
    model, asked = loaded(), prompts(6)
    answers = all_answers(model, asked, DECODING)
    other = replace(model, model=tiny.model("llama", seed=1))
    assert not replayed(other, asked, answers, DECODING).holds(torch.float32)
    assert not replayed(other, asked, answers, DECODING).holds(torch.bfloat16)
    assert not replayed(model, asked, answers, replace(DECODING, seed=8)).holds(torch.float32)
    (first, *rest) = answers
    changed = replayed(model, asked, [Answer((*first.ids[:-1], 2), False), *rest], DECODING)
    assert (changed.differing, changed.equal) == (1, 5)
    assert not changed.holds(torch.float32) and "1 tokens differ" in str(changed)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_written_under_all_their_names(tied: bool, tmp_path: Path) -> None:
    model = tiny.model(tied=tied)
    write_weights(model, torch.bfloat16, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert stored.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(stored[name], tensor.to(torch.bfloat16), rtol=0, atol=0)


def test_weights_go_through_memory_if_they_fit_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And onto a disk from a container's 64 MB; one that is full is said in a sentence."""
    model = tiny.model()
    write_weights(model, torch.bfloat16, tmp_path)
    size = written_bytes(model, torch.bfloat16)
    assert 0 <= (tmp_path / "model.safetensors").stat().st_size - size < 16_384  # names and shapes
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    for folder in (memory, disk):
        folder.mkdir()
    monkeypatch.setattr(running, "MEMORY", memory)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    free = shutil.disk_usage(memory).free
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for wanted, expected in ((free // 10, memory), (free // 4, disk)):
        with between(wanted) as place:
            assert place.parent == expected
        assert not place.exists()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot hand the weights over to vLLM .*TMPDIR"):
            write_weights(model, torch.bfloat16, disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_weights_leave_a_gpu_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(
        "kdbench.trainers.vllm.engine.revert_weight_conversion",
        lambda model, state: seen.update(state) or {},
    )
    monkeypatch.setattr("kdbench.trainers.vllm.engine.save_file", lambda *file: None)
    with FakeTensorMode(), torch.device("meta"):  # a device that is not the CPU
        model = LlamaForCausalLM(tiny.config("llama"))
        write_weights(model, torch.bfloat16, tmp_path)
    assert seen.keys() == model.state_dict().keys()
    assert {(t.device.type, t.dtype) for t in seen.values()} == {("cpu", torch.bfloat16)}


def test_keys_and_values_are_counted() -> None:
    assert kv_bytes(tiny.config("llama", width=32, layers=3), torch.float32) == 2 * 3 * 2 * 8 * 4
    assert kv_bytes(tiny.config("gpt2", width=32, layers=3), torch.bfloat16) == 2 * 3 * 4 * 8 * 2


def fake(tmp_path: Path, script: str) -> str:
    """An interpreter that does this instead."""
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


NEW = ["wake weights", "reload_weights", "wake kv_cache"]


@pytest.mark.parametrize(
    ("level", "does"),
    [
        (0, ["reload_weights", "reload_weights"]),
        (1, ["reload_weights", "sleep 1", "wake all", "sleep 1"]),  # frozen: it keeps its weights
        (2, ["reload_weights", "sleep 2", *NEW, "sleep 2"]),
    ],
)
def test_it_sleeps_between_calls(
    level: int, does: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    plain = SimpleNamespace(
        llm_engine=SimpleNamespace(has_unfinished_requests=lambda: False),
        sleep=lambda level: heard.append(f"sleep {level}"),
        wake_up=lambda tags=("all",): heard.append(f"wake {tags[0]}"),
        collective_rpc=lambda name, kwargs: heard.append(name),
    )
    stub = SimpleNamespace(LLM=lambda folder, **how: plain, SamplingParams=None)
    monkeypatch.setitem(sys.modules, "vllm", stub)
    drawing = SimpleNamespace(ASKED="kdbench")
    monkeypatch.setitem(sys.modules, "kdbench.trainers.vllm.drawing", drawing)
    told = dict.fromkeys(("folder", "dtype", "length", "rows", "share"), "")
    worker = Answerer({**told, "device": "cuda:0", "sleep": level})
    asked = {"decoding": {}, "vocab": 5, "prompts": [], "streams": [], "limits": []}
    for call in range(2):
        if level != 1 or not call:
            worker.take({"folder": ""})
        assert not list(worker.answer(asked))
        worker.rest()
    assert heard == does


def test_it_starts_once_where_the_context_ends_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    process = SimpleNamespace()

    def start(engine: VllmEngine, longest: int) -> None:
        started.append(longest)
        raise CellFailed("started")

    monkeypatch.setattr(VllmEngine, "_start", start)
    engine = VllmEngine(loaded(), changes=False, say=lambda line: None)
    for longest, reaches in ((129, 0), (300, 64)):
        engine._length = reaches
        with pytest.raises(CellFailed):
            engine._ready(longest)
    monkeypatch.setattr(engine, "_process", process)
    engine._length = 128
    assert engine._ready(300) is process
    assert started == [128, 128]


def test_where_vllm_is_not_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(python: str, sentence: str) -> None:
        monkeypatch.setenv(INTERPRETER, python)
        with pytest.raises(InputError, match=sentence):
            check_installed()

    refused(str(tmp_path / "none"), "is no Python that can be run")
    refused(fake(tmp_path, "echo no kdbench >&2; exit 1"), r"does not run kdbench \(no kdbench\)")
    said = json.dumps({"about": {**about(), "vllm": None}})
    refused(fake(tmp_path, f"echo '{said}'"), "needs vLLM, which .* does not have")
    said = json.dumps({"about": {**about(), "vllm": "1", "code": "old"}})
    refused(fake(tmp_path, f"echo '{said}'"), "another version than this one")


def test_a_worker_that_dies_is_said_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = json.dumps({"about": {**about(), "vllm": "1"}})
    python = fake(tmp_path, f"echo '{said}'; [ $3 ] && exit; echo out of memory >&2; exit 3")
    monkeypatch.setenv(INTERPRETER, python)
    process = Process("cpu")
    with pytest.raises(CellFailed, match=r"process ended \(3\).*out of memory"):
        process.tell("load")
    assert process.folder.is_dir()
    process.close()
    assert not process.folder.exists()


def test_what_vllm_cannot_compute_in_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot sample in float64; set generate.dtype=fp32"):
        check_dtype(torch.float64)


# -- with it ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vllm() -> None:
    try:
        check_installed()
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "tied"), [("llama", True), ("qwen2", False), ("gpt2", True)], ids=lambda x: str(x)
)
def test_vllm_draws_our_samples_before_and_after_new_weights(
    family: str, tied: bool, vllm: None
) -> None:
    local, asked, said = loaded(family, tied=tied, width=128), prompts(16), list[str]()
    engine = VllmEngine(local, changes=True, say=said.append)
    before = {}
    for way, how in WAYS.items():
        before[way] = all_answers(local, asked, how)
        assert all_answers(engine, asked, how) == before[way], way
    assert [check.differing for check in engine.checks] == [0, 0]
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in local.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    for way, how in WAYS.items():
        after = all_answers(local, asked, how)
        assert sum(a == b for a, b in zip(after, before[way], strict=True)) < 8
        assert all_answers(engine, asked, how) == after, way
    # what does not fit the positions ends there; a longer question starts it anew
    long = [Prompt(tuple([5] * 120), 1), Prompt((5,) * 128, 2), Prompt((4, 5), 3)]
    far = replace(DECODING, max_new_tokens=40)
    assert all_answers(engine, long, far) == all_answers(local, long, far)
    assert len(said) == 2 and "8 of 8 compared answers" in said[0]


@pytest.mark.slow
def test_weights_that_did_not_arrive_are_seen(vllm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    local = loaded(width=128)
    engine = VllmEngine(local, changes=True, say=lambda line: None)
    all_answers(engine, prompts(4), DECODING)
    with torch.no_grad():
        local.model.lm_head.weight.mul_(-1)
    # the head keeps its old values where it is not handed over under its own name
    monkeypatch.setattr(
        "kdbench.trainers.vllm.engine.write_weights",
        lambda model, dtype, place: model.save_pretrained(place),
    )
    with pytest.raises(CellFailed, match="does not draw what this model does"):
        all_answers(engine, prompts(4), DECODING)
