"""Packed, padded and alone are the same sequences to a model."""

from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
import zoo
from transformers import AutoModelForCausalLM, BloomConfig

from kdbench.trainers import batching, cpu
from kdbench.trainers.batching import is_packable, pack, pad
from kdbench.trainers.by_sequence import by_mask, forward
from kdbench.trainers.cpu import fast_products
from kdbench.trainers.head.head import backbone_hidden
from kdbench.trainers.types import Packed, Sequence


def per_target(packed: Packed) -> list[tuple[int, ...]]:
    """(input token that predicts, its position, target, owner, place) of each target."""
    ids = packed.input_ids_RT.flatten()[packed.source_N]
    positions = packed.position_ids_RT.flatten()[packed.source_N]
    columns = (ids, positions, packed.target_N, packed.owner_N, packed.place_N)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def test_first_response_token_and_end_token_are_targets() -> None:
    sequences = [Sequence((5, 6, 7), (8, 9, 1)), Sequence((3,), (1,))]
    for packed in (pack(sequences, max_tokens=9, pad_id=0), pad(sequences, pad_id=0)):
        assert per_target(packed) == [
            (7, 2, 8, 0, 0),
            (8, 3, 9, 0, 1),
            (9, 4, 1, 0, 2),
            (3, 0, 1, 1, 0),
        ]


def test_plain_text_predicts_all_but_its_first_token() -> None:
    packed = pack([Sequence((), (5, 6, 1))], max_tokens=5, pad_id=0)
    assert per_target(packed) == [(5, 0, 6, 0, 1), (6, 1, 1, 0, 2)]


def test_rows_are_few_and_never_too_long() -> None:
    sequences = [Sequence((2,) * n, (3, 1)) for n in (9, 1, 5, 4, 3, 6)]
    packed = pack(sequences, max_tokens=12, pad_id=0)
    lengths = [len(s) - 1 for s in sequences]
    assert packed.input_ids_RT.shape[1] <= 12
    assert packed.input_ids_RT.shape[0] == -(-sum(lengths) // 12)
    assert packed.attention_mask_RT is None
    assert len(packed.sequences) == 6


def test_too_long_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit rows of 3"):
        pack([Sequence((2, 3, 4), (5, 1))], max_tokens=3, pad_id=0)


@pytest.mark.parametrize(("family", "holds"), [("llama", True), ("gpt2", True), ("opt", False)])
def test_the_mask_of_transformers_is_tried_where_a_gpu_may_need_it(
    family: str, holds: bool
) -> None:
    """OPT does not hand it the positions that tell packed sequences apart; by sequence it is packed."""
    model = tiny.model(family)
    assert is_packable(model, tiny.VOCAB)
    with by_mask():
        assert batching._agree(model, tiny.VOCAB, half=False) is holds


@pytest.mark.parametrize(("attention", "row"), [("sdpa", 64), ("eager", 24)])
def test_rows_are_long_only_where_attention_goes_by_sequence(
    attention: str, row: int, tmp_path: Path
) -> None:
    """Others multiply whole rows, and some (GPT-Neo) have no more columns than positions."""
    student = tiny.model("llama")
    student.config._attn_implementation = attention
    sft = zoo.made("sft")
    made = tiny.loop(
        sft,
        student=student,
        teacher=None,
        out=tmp_path,
        micro_tokens=64,
        max_length=24,
        max_prompt=12,
    )
    assert made.layout.row == row


def test_columns_follow_the_targets() -> None:
    first = Sequence((2,), (3, 1), columns={"w": torch.tensor([1.0, 2.0])})
    text = Sequence((), (4, 5, 1), columns={"w": torch.tensor([9.0, 3.0, 4.0])})
    for packed in (pack([first, text], max_tokens=9, pad_id=0), pad([first, text], pad_id=0)):
        assert packed.columns["w"].tolist() == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(ValueError, match="column 'w'"):
        pad([first, Sequence((2,), (1,))], pad_id=0)


def test_sequences_without_targets_take_no_room() -> None:
    empty = Sequence((), (7,))
    packed = pack([empty, Sequence((2,), (3, 1)), Sequence((4, 5), ())], max_tokens=9, pad_id=0)
    assert packed.input_ids_RT.tolist() == [[2, 3]]
    assert len(packed.sequences) == 3
    assert packed.owner_N.tolist() == [1, 1]
    assert len(pack([empty], max_tokens=9, pad_id=0).target_N) == 0


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_padded_and_alone_give_the_same_hidden_states(
    family: str, dtype: torch.dtype
) -> None:
    model = tiny.model(family).to(dtype)
    sequences = tiny.sequences(7)
    layouts = {
        "one row": pack(sequences, max_tokens=1000, pad_id=0),
        "rows": pack(sequences, max_tokens=40, pad_id=0),
        "padded": pad(sequences, pad_id=0),
    }
    with torch.no_grad():
        alone = torch.cat([backbone_hidden(model, pad([s], pad_id=0)) for s in sequences])
        packable = is_packable(model, tiny.VOCAB)
        for name, packed in layouts.items():
            if name != "padded" and not packable:
                continue
            got = backbone_hidden(model, packed)
            tolerance = 1e-5 if dtype == torch.float32 else 1e-12
            assert (got - alone).abs().max() <= tolerance * alone.abs().max(), name
    assert packable


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_do_not_depend_on_the_layout(family: str) -> None:
    model = tiny.model(family).double()
    sequences = tiny.sequences(4)
    gradients = []
    for packed in (pack(sequences, max_tokens=200, pad_id=0), pad(sequences, pad_id=0)):
        model.zero_grad()
        backbone_hidden(model, packed).square().sum().backward()
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(found))
    assert (gradients[0] - gradients[1]).norm() <= 1e-10 * gradients[0].norm()


def test_without_our_attention_the_mask_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient checkpointing and accelerators take this road."""
    model = tiny.model("llama")
    packed = pack(tiny.sequences(5), max_tokens=50, pad_id=0)
    with torch.no_grad():
        ours = backbone_hidden(model, packed)
        model.gradient_checkpointing_enable()
        with forward(model, packed):
            assert model.config._attn_implementation == "sdpa"
        torch.testing.assert_close(backbone_hidden(model, packed), ours, rtol=1e-4, atol=1e-4)


def test_sliding_window_is_kept() -> None:
    config = tiny.config("qwen2", layers=2)
    config.use_sliding_window, config.sliding_window, config.max_window_layers = True, 4, 0
    config.layer_types = ["sliding_attention"] * 2
    model = AutoModelForCausalLM.from_config(config).eval()
    assert is_packable(model, tiny.VOCAB)
    sequences = tiny.sequences(3)
    with torch.no_grad():
        alone = torch.cat([backbone_hidden(model, pad([s], pad_id=0)) for s in sequences])
        packed = backbone_hidden(model, pack(sequences, max_tokens=200, pad_id=0))
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_model_without_position_ids_is_not_packable() -> None:
    model = AutoModelForCausalLM.from_config(
        BloomConfig(vocab_size=tiny.VOCAB, hidden_size=16, n_layer=1, n_head=2)
    ).eval()
    assert not is_packable(model, tiny.VOCAB)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_fast_products_are_autocast_up_to_rounding(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(family)
    packed = pack(tiny.sequences(4), max_tokens=200, pad_id=0)
    found = []
    for slow in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda slow=slow: not slow)
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = backbone_hidden(model, packed)
        hidden.float().square().mean().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((hidden.detach().float(), gradients))
    for fast, plain in zip(*found, strict=True):
        assert (fast - plain).norm() <= 0.05 * plain.norm()


@pytest.mark.parametrize("cast", [False, True], ids=["bfloat16", "autocast"])
def test_attention_with_gradients_is_wide_where_sequences_are_short(
    cast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearer to float32 than attention in bfloat16, and no wider without gradients or where they are long."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    generator = torch.Generator().manual_seed(1)
    lengths = [5, 7, 30]
    exact = [torch.randn(sum(lengths), 2, 8, generator=generator).bfloat16() for _ in range(3)]
    attend = partial(cpu.attend, plan=cpu.plan_of(lengths), dropout=0.0, scale=None, window=None)
    found = {}
    for name, bound in (("exact", 384), ("wide", 384), ("narrow", 0)):
        monkeypatch.setattr(cpu, "_WIDE_UP_TO", bound)
        rounds = name != "exact"
        given = torch.float32 if cast or not rounds else torch.bfloat16
        inputs = [x.to(given).requires_grad_() for x in exact]
        with torch.autocast("cpu", torch.bfloat16, enabled=cast and rounds):
            out = attend(*inputs)
            with torch.no_grad():
                frozen = attend(*inputs)
        assert out.dtype == (torch.bfloat16 if rounds else torch.float32)
        assert torch.equal(frozen, out) == (name != "wide")
        gradients = torch.autograd.grad(out.float().square().sum(), inputs)
        found[name] = torch.cat([g.float().flatten() for g in gradients])
    off = {name: (found[name] - found["exact"]).norm() for name in ("wide", "narrow")}
    assert 0 < off["wide"] < off["narrow"] < 0.05 * found["exact"].norm()


@pytest.mark.parametrize("micro_tokens", [8, 1000])
@pytest.mark.parametrize("world", [1, 2])
def test_what_predicts_nothing_is_no_part_of_a_step(micro_tokens: int, world: int) -> None:
    """Answers of a teacher that were cut before they began: a micro-batch of them alone has no rows."""
    cut = [Sequence((1, 2, 3), ()) for _ in range(5)]
    whole = tiny.sequences(3)
    stream = batching.Stream.of("response", [cut[0], whole[0], *cut[1:], *whole[1:]])
    dealt = [
        batching.pieces((stream,), micro_tokens=micro_tokens, rank=rank, world=world)
        for rank in range(world)
    ]
    assert len(set(map(len, dealt))) == 1
    assert all(any(s.targets for s in piece.sequences) for some in dealt for piece in some)
    counted = [s for some in dealt for piece in some if piece.share for s in piece.sequences]
    assert sorted(counted, key=str) == sorted(whole, key=str)
    only = batching.Stream.of("response", cut)
    assert batching.pieces((only,), micro_tokens=micro_tokens, rank=0, world=world) == []


@pytest.mark.parametrize(
    ("bound", "slow"), [("", False), ("avx512_core_bf16", True), ("AVX512_CORE_AMX", False)]
)
def test_a_bound_on_onednn_is_a_cpu_without_matrix_units(
    bound: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", bound)
    assert cpu.slow_in_half(torch.bfloat16) == slow and not cpu.slow_in_half(torch.float32)


def test_fast_products_leave_full_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    layer, x = torch.nn.Linear(4, 3), torch.randn(2, 4)
    with fast_products():
        inside = layer(x)
    assert torch.equal(inside, layer(x))


def test_no_fill_is_longer_than_the_longest_sequence() -> None:
    """Learned positions end with the model's context, which rows may be longer than."""
    sequences = [Sequence((2,), tuple(range(3, 3 + n)), n) for n in (6, 5, 5, 2)]
    packed = pack(sequences, max_tokens=16, pad_id=0)
    assert packed.position_ids_RT.shape == (2, 16)
    assert int(packed.position_ids_RT.max()) == 5 and sum(packed.lengths) == 32
    assert (packed.position_ids_RT.flatten() == 0).sum() == len(packed.lengths)
