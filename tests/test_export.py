"""A student written tensor by tensor is what transformers would write, and read again by it."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel

from kdbench.harness.files.store import read_json
from kdbench.harness.runner.training import say_ends
from kdbench.trainers.lora.adapters import Base, adapt
from kdbench.trainers.lora.settings import Lora
from kdbench.trainers.models import Vocabulary, load_model, verify_model
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


def test_how_a_student_likes_to_be_sampled_is_kept_beside_new_ends(tmp_path: Path) -> None:
    """Without do_sample too, which transformers refuses to write once a configuration has changed."""
    tiny.model().save_pretrained(tmp_path / "given")
    given = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}
    (tmp_path / "given/generation_config.json").write_text(json.dumps(given))

    def student() -> PreTrainedModel:
        return load_model(str(tmp_path / "given"))

    model = student()
    adapted = adapt(student(), Lora(r=2), seed=0, base=Base(load=student, name=""))
    for each in (model, adapted.model):
        say_ends(each, Vocabulary(size=9, eos_ids=(2, 3), pad_id=0))
    (tmp_path / "whole").mkdir()
    write_model(model, tmp_path / "whole")
    merged = adapted.load_base()
    adapted.merge_into(merged)
    merged.save_pretrained(tmp_path / "merged")
    for place in ("whole", "merged"):
        stored = read_json(tmp_path / place / "generation_config.json")
        del stored["transformers_version"]
        assert stored == {**given, "eos_token_id": [2, 3]}
