"""What a GPU does otherwise, as far as a CPU can show it: the same answers, the same hidden states, and
what is not on a CPU never enters what only a CPU needs.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel, masking_utils

from kdbench.trainers import by_sequence, cpu
from kdbench.trainers.batching import pack
from kdbench.trainers.cuda import attention
from kdbench.trainers.cuda.graphs import Body, Graphs, Recorder
from kdbench.trainers.head import tiles
from kdbench.trainers.head.head import Head, backbone_hidden, takes_apart
from kdbench.trainers.head.tiles import tiled_sum
from kdbench.trainers.objectives import divergences
from kdbench.trainers.parallel.recompute import compute_again
from kdbench.trainers.sampler import sampler as rollout
from kdbench.trainers.sampler.choice import decoder_for, recordable
from kdbench.trainers.sampler.decoders import Decoder, ForwardDecoder
from kdbench.trainers.sampler.draw import GumbelArgmax, position_keys
from kdbench.trainers.sampler.llama import Apart, LlamaDecoder, Product
from kdbench.trainers.types import Answer, Decoding, Packed, Prompt, Sequence

LENGTHS = (5, 2, 9, 30, 3, 7)
CONFIGS = {"llama": tiny.model("llama").config}


def rows_of() -> Packed:
    generator = torch.Generator().manual_seed(0)
    drawn = [
        tuple(torch.randint(2, tiny.VOCAB, (n,), generator=generator).tolist()) for n in LENGTHS
    ]
    return pack([Sequence(ids[:1], ids[1:]) for ids in drawn], max_tokens=32, pad_id=0)


# -- decoding -------------------------------------------------------------------------------------


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Graphs]:
    """Several steps before the host looks, and steps recorded: replaying one runs it again."""
    made: list[Graphs] = []

    def recording(*args: Any, **options: Any) -> Decoder:
        decoder = decoder_for(*args, **options)
        decoder.graphs = Graphs(lambda: lambda body: body)
        made.append(decoder.graphs)
        return decoder

    monkeypatch.setattr(rollout, "ahead_on", lambda device: 8)
    monkeypatch.setattr(rollout, "decoder_for", recording)
    return made


def answered(family: str, **options: Any) -> list[Answer]:
    prompts = [
        Prompt(tuple(range(2, 2 + LENGTHS[i % len(LENGTHS)])), key=100 + i) for i in range(16)
    ]
    decoding = Decoding(max_new_tokens=40, seed=4, temperature=1.5)
    asked: dict[str, Any] = {"batch_size": 7, "dtype": torch.float64, "chunk": 13} | options
    found = rollout.generate(
        tiny.model(family), prompts, decoding,
        eos_ids=frozenset({tiny.EOS}), pad_id=0, vocab=tiny.VOCAB, **asked,
    )  # fmt: skip
    return [answer for chunk in found for answer in chunk]


def test_recordings_share_one_memory_until_all_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handles, pools = iter("ab"), list[str]()

    def recording(graph: Any, *, pool: str) -> nullcontext[None]:
        pools.append(pool)
        return nullcontext()

    replayed = SimpleNamespace(replay=lambda: None)
    for name, stand_in in {
        "graph_pool_handle": lambda: next(handles),
        "CUDAGraph": lambda: replayed,
        "graph": recording,
        "current_stream": lambda: None,
        "set_stream": lambda stream: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    graphs = Graphs()
    for _ in range(2):
        for key in (1, 2, 1, 2, 1):
            assert graphs(key, lambda: torch.ones(1)) == 1
        graphs.clear()
    assert pools == ["a", "a", "b", "b"]


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_that_waits_for_the_device_is_never_recorded(
    waits: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recording that fails stays under way in torch, so that none may begin that can fail."""
    modes, recorded, model = [0], list[Body](), tiny.model("gpt2")
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(Recorder, "__init__", lambda self: None)
    monkeypatch.setattr(Recorder, "__call__", lambda self, body: recorded.append(body) or body)
    forward = model.forward

    def looking(*args: Any, **options: Any) -> Any:
        if waits and modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return forward(*args, **options)

    model.forward = looking
    decoder = ForwardDecoder(model, model.dtype, 0)
    assert recordable(decoder, model, vocab=tiny.VOCAB, window=None) is not waits
    assert modes == ([0, "error", 0] if waits else [0, "error", 0, "error", 0])  # 3 rows, and 1
    assert len(recorded) == (0 if waits else 2)
    assert ("without CUDA graphs (called a sync" in capsys.readouterr().err) is waits


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recorded_steps_and_late_looks_change_no_answer(
    family: str, request: pytest.FixtureRequest
) -> None:
    usual = answered(family)
    made = request.getfixturevalue("as_on_a_gpu")
    assert answered(family) == usual
    assert len({len(answer.ids) for answer in usual}) > 5
    recorded = made[0]._graphs.keys()
    assert (7, 64) in recorded
    assert {width for _, width in recorded} <= {64, 70}  # with the longest row, up to what there is
    assert {rows for rows, _ in recorded} <= {1, 2, 3, 4, 7}  # powers of two, or all of a chunk


def elsewhere(family: str) -> PreTrainedModel:
    """A model on the meta device: shapes and no numbers, and, as a GPU's, not a CPU's."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[family])
    assert takes_apart(model)
    return model


def test_a_weight_is_read_where_it_lies() -> None:
    """On a GPU, in the model's own precision, stacked products need no stacked copy."""
    model = elsewhere("llama")
    decoder = LlamaDecoder(model, model.dtype, 0, tiny.VOCAB, 64)
    shared = {p.untyped_storage()._cdata for p in model.parameters()}
    for layer in decoder._layers:
        for stacked in (layer.query_key_value, layer.gate_up):
            assert isinstance(stacked, Apart)
            read = {p._weight.untyped_storage()._cdata for p in stacked._products}
            assert read <= shared
    cast = LlamaDecoder(model, torch.bfloat16, 0, tiny.VOCAB, 64)  # a copy it is anyway
    assert not isinstance(cast._layers[0].gate_up, Apart)


def test_products_apart_are_those_of_the_stacked_weight() -> None:
    x, *weights = (torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (5, 6, 7))
    apart, whole = Apart([Product(w, None) for w in weights]), Product(torch.cat(weights), None)
    assert torch.allclose(apart(x), whole(x), atol=1e-6)


# -- attention ------------------------------------------------------------------------------------


def in_plain_words(
    query: Tensor, key: Tensor, value: Tensor, edges: Tensor, *_: Any,
    scale: float | None, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """What torch's variable-length kernel computes, in plain words."""
    ends, out = edges.tolist(), []
    for begin, end in pairwise(ends):
        q, k, v = (x[None, begin:end].transpose(1, 2) for x in (query, key, value))
        mask = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
        if window_size[0] >= 0:
            mask = mask.triu(-window_size[0])
        one = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        out.append(one[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_variable_length_attention_gives_the_same_hidden_states(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, packed = tiny.model(family).bfloat16(), rows_of()
    assert sum(packed.lengths) == packed.input_ids_RT.numel()
    assert takes_apart(model)
    with torch.no_grad():
        expected = backbone_hidden(model, packed)
        monkeypatch.setattr(attention.varlen, "varlen_attn", in_plain_words)
        calls = []
        monkeypatch.setattr(attention, "attend", counted(attention.attend, calls))
        monkeypatch.setattr(by_sequence, "_kind", lambda model: "cuda")
        found = backbone_hidden(model, packed)
    assert calls
    assert model.config._attn_implementation == "sdpa"
    assert (found - expected).abs().max() <= 0.03 * expected.abs().max()


def test_layers_that_are_computed_again_attend_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.varlen, "varlen_attn", in_plain_words)
    monkeypatch.setattr(by_sequence, "_kind", lambda model: "cuda")
    found = []
    for prepare in (lambda model: None, compute_again):
        model = copy.deepcopy(tiny.model("llama")).bfloat16()
        assert takes_apart(model)
        prepare(model)
        backbone_hidden(model, rows_of()).float().square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *found))


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def wrapped(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return function(*args, **options)

    return wrapped


# -- the fence ------------------------------------------------------------------------------------


@contextmanager
def closed(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is called of a module raises."""

    def entered(*args: Any, **options: Any) -> None:
        raise AssertionError(f"a GPU entered {module.__name__}")

    with monkeypatch.context() as patched:
        for name, found in vars(module).items():
            if callable(found) and getattr(found, "__module__", None) == module.__name__:
                patched.setattr(module, name, entered)
        yield


@pytest.mark.parametrize("objective", [divergences.forward_kl, divergences.reverse_kl])
def test_a_gpu_never_enters_what_only_a_cpu_needs(
    objective: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training step's forward, head and backward, and a decoding step, off the CPU."""
    monkeypatch.setattr(
        torch, "is_autocast_enabled", lambda device: False
    )  # it knows no meta device
    monkeypatch.setattr(torch, "autocast", lambda device, **options: nullcontext())
    monkeypatch.setattr(attention, "serves", lambda *_: True)
    # it looks at position ids, of which there are none
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda *_: None)
    reads = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, edges: Tensor, *_: Any, **__: Any) -> Tensor:
        reads.append(edges.device == q.device)
        return q + k.mean() + v.mean()

    monkeypatch.setattr(attention.varlen, "varlen_attn", kernel)
    kind = by_sequence._kind
    monkeypatch.setattr(by_sequence, "_kind", lambda model: "cuda")
    with closed(cpu, monkeypatch):
        model, packed = elsewhere("llama"), rows_of()  # rows move to where their model is
        head = Head(model.get_output_embeddings().weight, None, 1.0, None, tiny.VOCAB)
        hidden = backbone_hidden(model, packed)
        loss, _ = tiled_sum(
            objective, hidden, head, packed.target_N,
            teacher_hidden_ND=hidden.detach(), teacher_head=head,
        )  # fmt: skip
        loss.backward()  # without a look at its value, which is not there
        assert model.model.layers[0].mlp.up_proj.weight.grad is not None
        decoder = LlamaDecoder(model, torch.bfloat16, 0, tiny.VOCAB, 64)
        decoder.reset(4, 32)
        decoder.fill([0, 1], [(3, 4, 5), (6,)])
        logits = decoder.step(torch.tensor([1, 2], device="meta"))
        keys = position_keys([1, 2], 1, torch.device("meta"))[:, 0]
        drawn = GumbelArgmax(tiny.VOCAB, torch.device("meta"))(logits.float(), keys)
        assert drawn.shape == (2,)
    assert reads
    assert all(reads)
    monkeypatch.setattr(by_sequence, "_kind", kind)
    with pytest.raises(AssertionError, match="a GPU entered"), closed(cpu, monkeypatch):
        backbone_hidden(tiny.model("llama"), rows_of())  # the fence is there


def test_a_gpus_tiles_are_tall_and_fit() -> None:
    cuda = torch.device("cuda")
    for gib in (24, 80):
        rows = tiles.default_rows(128_000, cuda, gib << 30)
        assert rows >= 1024
        assert 2 * rows * 128_000 <= (gib << 30) // 32
    assert (
        16 <= tiles.default_rows(128_000, cuda, 4 << 30) < 1024
    )  # a card that has no room for them
    assert tiles.default_rows(50_257, cuda, 80 << 30) == (1 << 27) // 50_257
