"""How models are shared, as one process alone can show it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from kdbench.trainers import assemble, batching
from kdbench.trainers.batching import Layout, is_packable
from kdbench.trainers.head.head import backbone_hidden, head_of, takes_apart
from kdbench.trainers.micro_batch import StudentModule
from kdbench.trainers.outline import Whole
from kdbench.trainers.parallel import sharding
from kdbench.trainers.parallel.tensors import whole
from kdbench.trainers.types import Sequence

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of this process only."""
    monkeypatch.setattr(sharding, "_meshes", {})
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_shared_frozen_model_has_one_root_and_the_rest_is_whole(family: str) -> None:
    """Each layer a root of its own would fetch nothing ahead, and keep memory of its own."""
    model = tiny.model(family, layers=3)
    packed = Layout(row=16, pad_id=0, packed=False, device=CPU)([Sequence((3, 4), (5, 6, 7))])
    with torch.no_grad():
        expected = backbone_hidden(tiny.model(family, layers=3), packed)
        sharding.share_frozen(model, CPU)
        assert not head_of(model, tiny.VOCAB).dense  # both roads to the layers were taken
        assert torch.equal(backbone_hidden(model, packed), expected)
        # what lies outside of layers is read outside of forward passes
        ids, table = torch.tensor([1, 2]), model.get_input_embeddings()
        assert torch.equal(table(ids), table.weight[ids])
    states = [m._get_fsdp_state() for m in model.modules() if isinstance(m, FSDPModule)]
    assert [s._is_root for s in states] == [True, False, False, False]
    shared = {n for n, p in model.named_parameters() if isinstance(p, DTensor)}
    layers = sharding.layers_of(model).prefix
    assert shared == {n for n, _ in model.named_parameters() if n.startswith(layers)}


def test_a_copy_of_a_shared_student_is_whole_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama", layers=3)
    module, outline = StudentModule(model, tiny.VOCAB, {}), Whole(model)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    sharding.share_student(module, CPU)
    gathered: list[torch.Size] = []
    full = DTensor.full_tensor

    def noted(tensor: DTensor) -> torch.Tensor:
        gathered.append(tensor.shape)
        return full(tensor)

    monkeypatch.setattr(DTensor, "full_tensor", noted)
    today = sharding.shared_copy(outline, frozenset(), tiny.VOCAB)
    outside = [p for n, p in expected.items() if not n.startswith("model.layers.")]
    assert sorted(gathered) == sorted(p.shape for p in outside)
    held = today.weights()
    assert held.pop("lm_head.weight").equal(expected["model.embed_tokens.weight"])
    assert held.keys() == expected.keys()
    assert all(torch.equal(held[name], p) for name, p in expected.items())
    earlier = {name: value + 1 for name, value in held.items()}
    then = sharding.shared_copy(outline, frozenset(), tiny.VOCAB, earlier)
    for name, p in then.model.named_parameters():
        assert not p.requires_grad
        assert torch.equal(whole(p), earlier[name]), name


@pytest.mark.parametrize("asked", [takes_apart, lambda model: is_packable(model, tiny.VOCAB)])
def test_what_is_found_out_of_a_shared_model_is_what_the_first_process_found(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding may tell others something else, and one that makes fewer passes makes them wait."""
    assert asked(tiny.model())
    model = tiny.model()
    sharding.share_frozen(model, CPU)

    def first(box: list[Any]) -> None:
        box[0] = False

    with monkeypatch.context() as other:
        other.setattr(dist, "broadcast_object_list", first)
        assert not asked(model)
    assert not asked(model)


def test_whatever_is_found_all_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []

    def agree(model: Any, vocab: int, *, half: bool) -> bool:
        tries.append(half)
        return half

    monkeypatch.setattr(batching, "_agree", agree)
    monkeypatch.setattr(batching, "_kind", lambda model: "cuda")
    assert not batching._agrees(tiny.model(), 9)
    assert tries == [False, True]
    monkeypatch.setattr(assemble, "is_packable", lambda model, ids: tries.append(model) or False)
    parts: Any = SimpleNamespace(
        packed=None,
        accelerator=SimpleNamespace(device=torch.device("meta")),
        vocabulary=SimpleNamespace(size=9, pad_id=0),
        teacher_vocab=None,
        recipe=SimpleNamespace(max_length=8),
        tile=None,
    )
    models: Any = ["student", "teacher"]
    assert not assemble.layout_of(parts, models).packed
    assert tries[2:] == models
