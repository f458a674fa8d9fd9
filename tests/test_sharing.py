"""How models are shared, as one process alone can show it."""

from collections.abc import Iterator

import pytest
import tiny
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from kdbench.trainers.batching import Layout
from kdbench.trainers.head.head import backbone_hidden, head_of
from kdbench.trainers.parallel import sharding
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
