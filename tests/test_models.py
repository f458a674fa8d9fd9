"""Loading, pruning and initialising models of the real families."""

import os
from pathlib import Path

import architectures
import pytest
import tiny
import torch

from kdbench.harness.errors import InputError
from kdbench.tasks import mini
from kdbench.trainers.models import (
    compare,
    config_from,
    initialise,
    kept_layers,
    load_model,
    prune,
    vocabulary,
    without_values,
)
from kdbench.trainers.outline import Whole
from kdbench.trainers.pruning import layers_of


@pytest.mark.parametrize(
    ("total", "keep", "expected"),
    [
        (30, 8, [0, 4, 8, 12, 17, 21, 25, 29]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (5, 2, [0, 4]),
        (4, 1, [0]),
    ],
)
def test_kept_layers_are_spread_and_keep_both_ends(
    total: int, keep: int, expected: list[int]
) -> None:
    assert kept_layers(total, keep) == expected


def test_cannot_keep_more_layers_than_there_are() -> None:
    with pytest.raises(InputError, match="from 1 to 4"):
        kept_layers(4, 5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_pruned_model_is_the_teacher_without_some_layers(family: str) -> None:
    teacher = tiny.model(family, layers=5)
    student = prune(teacher, 3)
    assert student.config.num_hidden_layers == 3
    ids = torch.arange(2, 12)[None]
    for layers in teacher.modules():
        if isinstance(layers, torch.nn.ModuleList) and len(layers) == 5:
            kept = [layers[i] for i in kept_layers(5, 3)]
            for index, layer in enumerate(kept):  # the cache looks layers up by their number
                for module in layer.modules():
                    if hasattr(module, "layer_idx"):
                        module.layer_idx = index
            del layers[:]
            layers.extend(kept)
            break
    teacher.config.num_hidden_layers = 3
    expected = teacher(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(student(input_ids=ids, use_cache=False).logits, expected)
    shared = {p.data_ptr() for p in teacher.parameters()}
    assert not shared & {p.data_ptr() for p in student.parameters()}


@pytest.mark.parametrize("name", ["smollm3", "gpt_neo", "qwen2_moe", "deepseek_v3", "gemma3_text"])
@pytest.mark.parametrize("keep", [2, 3])
def test_pruned_layers_keep_their_kind(name: str, keep: int, tmp_path: Path) -> None:
    """Sees what a layer is without our own comparison: by the layers that are skipped in the teacher."""
    teacher = architectures.model(name)
    layers, kept = layers_of(teacher).modules, kept_layers(4, keep)
    prune(teacher, keep).save_pretrained(tmp_path)
    student, ids = load_model(str(tmp_path)), torch.arange(3, 30)[None]
    whole = name == "gpt_neo"  # whose layers give tuples
    for index in {0, 1, 2, 3} - set(kept):
        layers[index].forward = lambda x, *args, **kwargs: (x, None) if whole else x
    with torch.no_grad():
        expected = teacher(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(student(input_ids=ids, use_cache=False).logits, expected)


def test_what_no_configuration_says_cannot_be_pruned() -> None:
    with pytest.raises(InputError, match="layers 1, 4 of 4"):
        prune(architectures.model("gpt2, by inverse layer"), 2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_saved_model_loads_with_its_own_memory(family: str, tmp_path: Path) -> None:
    model = tiny.model(family)
    model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert not loaded.training
    ids = torch.arange(2, 12)[None]
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert all(p.data_ptr() % 64 == 0 for p in loaded.parameters())


def test_initialisation_depends_on_the_seed_alone(tmp_path: Path) -> None:
    tiny.config("llama").save_pretrained(tmp_path)
    config = config_from(str(tmp_path / "config.json"))
    before = torch.random.get_rng_state()
    one, same, other = (initialise(config, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "model.embed_tokens.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


@pytest.mark.parametrize("what", ["missing.gguf", "empty", "nowhere/at-all"])
def test_what_is_no_model_is_refused_in_a_sentence(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path / what) if "/" not in what else what)
    assert what in str(caught.value) and "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = tiny.model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_model(str(tmp_path))


@pytest.mark.slow
def test_real_gguf_file() -> None:
    """``KDBENCH_GGUF`` names a .gguf file of a causal language model."""
    path = os.environ.get("KDBENCH_GGUF")
    if not path:
        pytest.skip("KDBENCH_GGUF names no file")
    model = load_model(path)
    logits = model(input_ids=torch.arange(5, 15)[None]).logits
    assert logits.isfinite().all()
    from kdbench.trainers.models import load_tokenizer

    tokenizer = load_tokenizer(path)
    assert compare(tokenizer, tokenizer) == (len(tokenizer), "")


def test_added_tokens_without_a_place_in_the_model_do_not_count() -> None:
    """As Gemma 3's text models have one; a tokenizer of another model has more than added tokens."""
    tokenizer = mini.build_tokenizer()
    size = max(tokenizer.get_vocab().values()) + 1
    tokenizer.add_tokens(["<picture>"])
    model = tiny.model("llama")
    model.resize_token_embeddings(size)
    shared = compare(tokenizer, tokenizer).shared  # of a pair, whose tokenizers agree on that token
    assert shared == size + 1
    assert (
        vocabulary(tokenizer, model).size == vocabulary(tokenizer, model, size=shared).size == size
    )
    model.resize_token_embeddings(size + 1)
    assert vocabulary(tokenizer, model).size == size + 1
    model.resize_token_embeddings(size - 1)
    with pytest.raises(InputError, match="belongs to the model"):
        vocabulary(tokenizer, model)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_half_precision_leaves_positions_as_they_are(family: str, tmp_path: Path) -> None:
    """Rotary frequencies are computed, not stored: rounded they would be others."""
    tiny.model(family).save_pretrained(tmp_path)
    whole, half = load_model(str(tmp_path)), load_model(str(tmp_path), dtype=torch.bfloat16)
    shapes = without_values(str(tmp_path), dtype=torch.bfloat16)
    assert shapes is not None
    assert {p.dtype for m in (half, shapes) for p in m.parameters()} == {torch.bfloat16}
    exact = dict(whole.named_buffers())
    assert exact
    for model in (half, shapes):
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, exact[name]), name


def test_a_copy_has_the_models_precision_whatever_it_was_whole_in_before() -> None:
    model = tiny.model("llama", tied=True)
    whole = Whole(model)
    with whole.lasting(torch.bfloat16) as sampled:
        assert sampled.dtype == torch.bfloat16
    copy = whole.frozen()
    tensors = {name: p.detach() for name, p in copy.named_parameters()}
    assert tensors.keys() == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        assert tensors[name].dtype == p.dtype and torch.equal(tensors[name], p)
