"""A student written tensor by tensor is what transformers would write, and read again by it."""

from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from kdbench.trainers.models import verify_model
from kdbench.trainers.parallel.export import is_streamable, write_model


@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("llama", False)])
def test_files_are_those_of_transformers(family: str, tied: bool, tmp_path: Path) -> None:
    model = tiny.model(family, tied=tied)
    folders = whole, one, several = [tmp_path / name for name in ("whole", "one", "several")]
    for folder in folders:
        folder.mkdir()
    assert is_streamable(model)
    write_model(model, one)
    write_model(model, several, most=20_000)
    model.save_pretrained(whole)
    assert {f.name: f.read_bytes() for f in one.iterdir()} == {
        f.name: f.read_bytes() for f in whole.iterdir()
    }
    assert len(list(several.glob("model-0000?-of-0000?.safetensors"))) > 1
    verify_model(str(several))  # strictly
    loaded = AutoModelForCausalLM.from_pretrained(several).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_tensors_that_are_stored_as_others_are_not_streamed() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    model = AutoModelForCausalLM.from_config(MixtralConfig(**sizes, **heads))
    assert not is_streamable(model)
