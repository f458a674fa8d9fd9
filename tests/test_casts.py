"""What autocast rounds of a layer's weights does not outlive the layer where layers are short-lived."""

import gc
from typing import Any

import pytest
import tiny
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from kdbench.trainers import cpu
from kdbench.trainers.batching import Layout
from kdbench.trainers.engine import FILLER
from kdbench.trainers.micro_batch import StudentModule
from kdbench.trainers.parallel.recompute import compute_again
from kdbench.trainers.parallel.sharding import passed
from kdbench.trainers.pruning import layers_of

LAYERS, MATRICES = 4, 7


class Casts(TorchDispatchMode):
    """How many rounded copies of layers' matrices lay in memory at once, at most."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._weights = {id(p) for p in layers_of(model).modules.parameters() if p.ndim == 2}
        self._made: list[StorageWeakRef] = []
        self.most = self.all = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and id(args[0]) in self._weights:
            self._made.append(StorageWeakRef(out.untyped_storage()))
            self.all += 1
        self.most = max(self.most, self.alive())
        return out

    def alive(self) -> int:
        """How many lie there now."""
        self._made = [each for each in self._made if not each.expired()]
        return len(self._made)


@pytest.fixture(autouse=True)
def fast_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU, and a CPU with matrix units: products are autocast's."""
    monkeypatch.setattr(cpu, "slow_in_half", lambda dtype: False)
    gc.collect()


@pytest.mark.parametrize("again", [False, True])
def test_layers_that_are_computed_again_are_rounded_one_at_a_time(again: bool) -> None:
    model = tiny.model("llama", layers=LAYERS)
    if again:
        compute_again(model)
    ids = torch.arange(2, 10)[None]
    with Casts(model) as casts:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=ids, use_cache=False)[0]
            between = casts.alive()
        hidden.sum().backward()
    assert between == (0 if again else LAYERS * MATRICES)
    assert casts.most == (MATRICES if again else LAYERS * MATRICES)
    assert casts.all == LAYERS * MATRICES * (2 if again else 1)


def test_rounded_one_at_a_time_or_all_together_are_the_same_gradients() -> None:
    found = []
    for prepare in (lambda model: None, compute_again):
        model = tiny.model("llama", layers=LAYERS)
        prepare(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=torch.arange(2, 10)[None], use_cache=False)[0]
        hidden.float().square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *found))


def test_a_pass_that_only_reads_keeps_no_casts() -> None:
    model = tiny.model("llama", layers=LAYERS)
    module = StudentModule(model, tiny.VOCAB, {})
    packed = Layout(row=16, pad_id=0, packed=False, device=torch.device("cpu"))(FILLER)
    with Casts(model) as casts, torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        passed(module, packed, lambda hidden_ND, head: None)
        assert casts.alive() == 0
        assert torch.is_autocast_cache_enabled()
    assert casts.all >= LAYERS * MATRICES
    assert casts.most <= MATRICES
