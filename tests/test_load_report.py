"""Loading a model folder: weights that are its architecture's, whole and finite, or a sentence why not."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from kdbench.harness.errors import InputError
from kdbench.harness.files.folders import new_folder
from kdbench.harness.runner.models import locate
from kdbench.tasks import mini
from kdbench.trainers.model_folder import inspect_folder, inspect_tokenizer
from kdbench.trainers.models import config_from, load_model, load_tokenizer, verify_model

WEIGHTS = "model.safetensors"
Edit = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama with a tokenizer."""
    place = tmp_path / "model"
    tiny.model("llama", tied=False).save_pretrained(place)
    mini.build_tokenizer().save_pretrained(place)
    return place


def config(**changes: Any) -> Edit:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    def edit(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS, {"format": "pt"})

    return edit


def nan(found: dict[str, torch.Tensor]) -> None:
    found["model.norm.weight"][3] = float("nan")


def whole_numbers(found: dict[str, torch.Tensor]) -> None:
    found["lm_head.weight"] = found["lm_head.weight"].view(torch.int32)


def renamed(found: dict[str, torch.Tensor]) -> None:
    for name in list(found):
        if name.startswith("model.layers.1."):
            found["transformer" + name.removeprefix("model")] = found.pop(name)


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def pointer(name: str) -> Edit:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    return lambda folder: (folder / name).write_text(text) and None


def alone(name: str, content: str) -> Edit:
    return lambda folder: (folder / name).write_text(content) and None


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def never_filled(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def lacks_shard(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    where = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def outside(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    index = {"weight_map": {"a": f"../{WEIGHTS}"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def loop(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")


REFUSED = [
    (tensors(lambda t: t.pop("lm_head.weight")), "missing: lm_head.weight"),
    (tensors(renamed), r"missing: model.layers.1.*and 6 more.*left over: transformer.layers.1"),
    (tensors(lambda t: t.update(extra=torch.ones(2))), "left over: extra"),
    (tensors(lambda t: t.update({"model.norm.weight": torch.ones(5)})), r"norm.weight \(5, wanted 32"),
    (tensors(lambda t: t["lm_head.weight"].fill_(0)), "all values equal: lm_head"),
    (tensors(lambda t: t["lm_head.weight"][0].fill_(3e36)), "beyond 1e.18.*lm_head"),
    (tensors(whole_numbers), "whole numbers instead of weights: lm_head"),
    (config(hidden_size=32 * 10**9), "of another shape"),
    (config(quantization={"bits": 4}), "quantised model"),
    (tensors(nan), "NaN, infinite.*model.norm.weight"),
    (config(model_type="bert"), "encoder"),
    (config(model_type="opt"), "missing: .*left over: "),
    (config(model_type="t5"), "encoder-decoder"),
    (config(model_type="vit"), "no causal language model"),
    (config(model_type="llamma"), "did you mean llama"),
    (config(model_type="mine", auto_map={"AutoConfig": "mine.C"}), "code of its own"),
    (config(model_type=None), "names no model_type"),
    (config(tie_word_embeddings=True), "tied by config.json.*tie_word_embeddings"),
    (config(hidden_size="wide"), "hidden_size"),
    (config(rms_norm_eps=float("nan")), "rms_norm_eps is NaN"),
    (config(num_hidden_layers=10**9), "names 1000000000 layers"),
    (config(quantization_config={"quant_method": "gptq"}), "quantised model .gptq."),
    (alone("adapter_config.json", '{"peft_type": "LORA"}'), "LORA adapter.*beside full weights"),
    (alone("config.json", ""), "config.json is empty"),
    (alone("config.json", "[1]"), "holds a JSON list"),
    (alone("generation_config.json", "{"), "generation_config.json is not valid JSON"),
    (alone("generation_config.json", '{"eos_token_id": "</s>"}'), "eos_token_id must be a token id"),
    (pointer(WEIGHTS), "git lfs pull"),
    (pointer("config.json"), "git lfs pull"),
    (cut, "cut short.*download"),
    (never_filled, "ends in zeros, tensor model.layers.1"),
    (pickled, "pytorch_model.bin.*save_pretrained"),
    (lacks_shard, "lacks model-00002-of-00002"),
    (outside, "shards are .safetensors files beside it"),
    (loop, "link to a file that is not there"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "said"), REFUSED)
def test_what_is_not_whole_is_refused_by_name(edit: Edit, said: str, folder: Path) -> None:
    edit(folder)
    with pytest.raises(InputError, match=said) as caught:
        verify_model(str(folder))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=said):
        load_model(str(folder))


def test_an_adapter_is_told_from_a_model(tmp_path: Path) -> None:
    named = {"peft_type": "LORA", "base_model_name_or_path": "some/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(named))
    with pytest.raises(InputError, match=r"LORA adapter for 'some/base'.*merge it first"):
        load_model(str(tmp_path))


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGML")
    with pytest.raises(InputError, match="not a GGUF file"):
        load_model(str(tmp_path / "a.gguf"))


def test_a_model_that_does_not_fit_its_tokenizer_is_not_located(folder: Path) -> None:
    with pytest.raises(InputError, match="use the tokenizer that belongs to the model"):
        locate("model", str(folder))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_whole_models_pass(family: str, tied: bool, tmp_path: Path) -> None:
    made = tiny.model(family, tied=tied)
    made.save_pretrained(tmp_path / "one")
    made.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    made.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    for name in ("one", "shards", "half"):
        verify_model(str(tmp_path / name))
    found = inspect_folder(tmp_path / "shards")
    assert len(found.files) > 1 and found.tensors == inspect_folder(tmp_path / "one").tensors
    assert found.parameters == sum(p.numel() for p in made.parameters())


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    own = settings | {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (folder / "mine.py").write_text("raise SystemExit('code ran')")
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match="kdbench runs no code from model folders"):
        load_tokenizer(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    load_tokenizer(str(folder))
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE"}}')
    with pytest.raises(InputError, match="cannot load a tokenizer"):
        load_tokenizer(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        inspect_tokenizer(folder)


def test_a_quantised_configuration_makes_no_student(folder: Path) -> None:
    config(quantization_config={"quant_method": "awq"})(folder)
    with pytest.raises(InputError, match=r"quantised model \(awq\)"):
        config_from(str(folder / "config.json"))


def test_weights_in_new_folders_have_the_modes_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with new_folder(tmp_path / "model") as made:
            save_file({"a": torch.ones(1)}, made / WEIGHTS)
            (made / WEIGHTS).chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "model" / WEIGHTS).stat().st_mode & 0o777 == 0o640
