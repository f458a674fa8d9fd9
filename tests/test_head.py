"""The tiled head against the dense formula: values, gradients, and every way to get them."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import tiny
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    PreTrainedModel,
)

from kdbench.trainers import cpu
from kdbench.trainers.batching import pack, pad
from kdbench.trainers.head import generic, tiles
from kdbench.trainers.head.analytic import analytic_form
from kdbench.trainers.head.head import Head, backbone_hidden, head_of
from kdbench.trainers.head.tiles import tiled_sum, token_logprobs
from kdbench.trainers.objectives import divergences as objectives
from kdbench.trainers.types import Packed

OBJECTIVES: dict[str, objectives.TokenObjective] = {
    "cross_entropy": objectives.cross_entropy,
    "forward_kl": objectives.forward_kl,
    "word_kd": partial(objectives.word_kd, kd_ratio=0.3),
    "reverse_kl": objectives.reverse_kl,
    "jsd": partial(objectives.generalised_jsd, beta=0.5),
    "taid": partial(objectives.taid, t=0.4),
    "dpkd_token": objectives.dpkd_token,
}
FAST = ("cross_entropy", "forward_kl", "word_kd", "reverse_kl")


def random_head(
    width: int = 50, vocab: int = 47, *, seed: int = 0, bias: bool = False, **transforms: float
) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(width, 8, generator=generator, dtype=torch.float64)
    shift = torch.randn(width, generator=generator, dtype=torch.float64) if bias else None
    for tensor in (weight, shift):
        if tensor is not None:
            tensor.requires_grad_()
    return Head(weight, shift, transforms.get("scale", 1.0), transforms.get("softcap"), vocab)


def hidden_and_targets(n: int = 11, *, seed: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    return both[0], both[1], torch.randint(47, (n,), generator=generator)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_blocks_of_a_tile_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows an objective is computed on together are a matter of caches, not of results."""
    head = random_head(seed=1)
    narrow = Head(head.weight.detach().float().requires_grad_(), None, 1.0, 4.0, 47)
    student, teacher, target = hidden_and_targets(301)
    found = []
    for start in (1 << 60, 1):
        monkeypatch.setattr(generic, "_BLOCKED_FROM", start)
        monkeypatch.setattr(generic, "_BLOCK_ELEMENTS", 1)
        hidden = student.float().requires_grad_()
        loss, named = tiled_sum(
            OBJECTIVES[name], hidden, narrow, target,
            teacher_hidden_ND=teacher.float(), teacher_head=narrow,
        )  # fmt: skip
        found.append([*gradients(loss, hidden, narrow.weight), *named.values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def gradients(loss: torch.Tensor, *tensors: torch.Tensor | None) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [t for t in tensors if t is not None]))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("tile", [1, 4, None])
@pytest.mark.parametrize(
    "transforms",
    [{}, {"bias": True}, {"scale": 0.25, "bias": True}, {"softcap": 3.0, "scale": 2.0}],
    ids=["plain", "bias", "scale", "softcap"],
)
def test_tiled_is_dense(name: str, tile: int | None, transforms: dict[str, float]) -> None:
    student, teacher, target = hidden_and_targets()
    student.requires_grad_()
    head = random_head(seed=1, **transforms)
    teacher_head = random_head(60, seed=2, **transforms)  # padded to another width
    objective = OBJECTIVES[name]
    expected = objective(head.logits(student), teacher_head.logits(teacher), target, {})
    loss, sums = tiled_sum(
        objective,
        student,
        head,
        target,
        teacher_hidden_ND=teacher,
        teacher_head=teacher_head,
        tile=tile,
    )
    torch.testing.assert_close(loss, expected["loss"].sum())
    assert set(sums) == set(expected)
    for key, total in sums.items():
        assert total.dtype == torch.float64 and not total.requires_grad
        torch.testing.assert_close(total, expected[key].detach().sum())
    wanted = (student, head.weight, head.bias)
    dense = gradients(3 * expected["loss"].sum(), *wanted)
    for got, want in zip(gradients(3 * loss, *wanted), dense, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", FAST)
def test_fast_road_is_taken_and_equals_the_generic_one(name: str) -> None:
    student, teacher, target = hidden_and_targets()
    head, teacher_head = random_head(seed=1), random_head(seed=2)
    results = []
    # A lambda is not recognised, so it takes the generic road.
    for objective in (OBJECTIVES[name], lambda *arguments: OBJECTIVES[name](*arguments)):
        job = tiles.Job(
            objective, head, target, rows=4, teacher=teacher_head, teacher_hidden_ND=teacher
        )
        assert (analytic_form(objective, head, teacher_head) is not None) == (len(results) == 0)
        results.append(tiles.run(job, student, tiles.Wanted(True, True, False)))
    fast, generic = results
    assert set(fast.sums) == set(generic.sums)
    for key in fast.sums:
        torch.testing.assert_close(fast.sums[key], generic.sums[key])
    torch.testing.assert_close(fast.grad_hidden, generic.grad_hidden)
    torch.testing.assert_close(fast.grad_weight, generic.grad_weight)


@pytest.mark.parametrize("elements", [1, 5 * 8, 1 << 20])
def test_products_are_added_up_in_blocks(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_BLOCK_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(2)
    logits, hidden = (torch.randn(12, n, generator=generator).bfloat16() for n in (47, 8))
    total = torch.randn(47, 8, generator=generator)
    expected = total + logits.T @ hidden
    cpu.add_product_(total, logits.T, hidden)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-2)


def test_minus_infinity_in_a_bias_is_a_token_that_does_not_exist() -> None:
    student, teacher, target = hidden_and_targets()
    head, teacher_head = random_head(seed=1, bias=True), random_head(seed=2, bias=True)
    target = target % 40
    for one in (head, teacher_head):
        with torch.no_grad():
            one.bias[40:] = -torch.inf
    short = [Head(h.weight[:40], h.bias[:40], 1.0, None, 40) for h in (head, teacher_head)]
    values = [
        tiled_sum(
            objectives.forward_kl, student, s, target, teacher_hidden_ND=teacher, teacher_head=t
        )[0]
        for s, t in ((head, teacher_head), short)
    ]
    assert values[0].isfinite()
    torch.testing.assert_close(values[0], values[1])


def test_columns_reach_the_objective_in_order() -> None:
    student, _, target = hidden_and_targets()
    head = random_head()
    weight = torch.arange(11.0, dtype=torch.float64)

    def weighted(s: torch.Tensor, t: object, y: torch.Tensor, columns: dict[str, torch.Tensor]):
        return {"loss": columns["w"] * objectives.cross_entropy(s, None, y, {})["loss"]}

    loss, _ = tiled_sum(weighted, student, head, target, columns={"w": weight}, tile=3)
    expected = (weight * -head.logits(student).log_softmax(-1)[range(11), target]).sum()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("transforms", [{}, {"bias": True, "softcap": 3.0, "scale": 0.5}])
def test_token_logprobs(transforms: dict[str, float]) -> None:
    student, _, target = hidden_and_targets()
    student.requires_grad_()
    head = random_head(**transforms)
    expected = head.logits(student).log_softmax(-1)[range(11), target]
    got = token_logprobs(student, head, target, tile=3)
    torch.testing.assert_close(got, expected)
    weight = torch.arange(-5.0, 6.0, dtype=torch.float64)
    wanted = (student, head.weight, head.bias)
    dense = gradients((weight * expected.exp()).sum(), *wanted)
    for one, other in zip(gradients((weight * got.exp()).sum(), *wanted), dense, strict=True):
        torch.testing.assert_close(one, other)


def test_no_targets_are_a_zero_with_zero_gradients() -> None:
    head = random_head()
    hidden = torch.zeros(0, 8, dtype=torch.float64, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    loss, _ = tiled_sum(objectives.cross_entropy, hidden, head, none)
    assert float(loss.detach()) == 0
    grad_hidden, grad_weight = gradients(loss, hidden, head.weight)
    assert grad_hidden.shape == (0, 8)
    assert not grad_weight.any()


def test_evaluation_computes_no_gradient() -> None:
    student, _, target = hidden_and_targets()
    head = random_head()
    with torch.no_grad():
        loss, _ = tiled_sum(objectives.cross_entropy, student, head, target)
    assert not loss.requires_grad


def test_a_second_backward_is_refused() -> None:
    student, _, target = hidden_and_targets()
    loss, _ = tiled_sum(objectives.cross_entropy, student.requires_grad_(), random_head(), target)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_vocabularies_must_agree() -> None:
    student, teacher, target = hidden_and_targets()
    with pytest.raises(ValueError, match="vocabularies differ"):
        tiled_sum(
            objectives.forward_kl,
            student,
            random_head(),
            target,
            teacher_hidden_ND=teacher,
            teacher_head=random_head(vocab=46),
        )


# -- with models ---------------------------------------------------------------------------------


def dense_loss(
    model: PreTrainedModel, teacher: PreTrainedModel, packed: Packed, vocab: int
) -> torch.Tensor:
    """Forward KL from the models' own padded logits, by the formula."""
    arguments = {
        "input_ids": packed.input_ids_RT,
        "attention_mask": packed.attention_mask_RT,
        "position_ids": packed.position_ids_RT,
        "use_cache": False,
    }
    student, frozen = (
        m(**arguments).logits.flatten(0, 1)[packed.source_N, :vocab].log_softmax(-1)
        for m in (model, teacher)
    )
    return (frozen.exp() * (frozen - student)).sum().to(torch.float64)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_gets_the_dense_gradients(family: str, tied: bool) -> None:
    model = tiny.model(family, tied=tied, seed=1).double()
    teacher = tiny.model(family, tied=tied, seed=2).double()
    vocab = tiny.VOCAB - 4
    sequences = [s for s in tiny.sequences(6) if max(s.response) < vocab]
    dense = dense_loss(model, teacher, pad(sequences, pad_id=0), vocab)
    dense.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    for packed in (pack(sequences, max_tokens=60, pad_id=0), pad(sequences, pad_id=0)):
        model.zero_grad()
        with torch.no_grad():
            teacher_hidden = backbone_hidden(teacher, packed)
        loss, _ = tiled_sum(
            objectives.forward_kl,
            backbone_hidden(model, packed),
            head_of(model, vocab),
            packed.target_N,
            teacher_hidden_ND=teacher_hidden,
            teacher_head=head_of(teacher, vocab),
            tile=5,
        )
        loss.backward()
        torch.testing.assert_close(loss, dense)
        got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert got.keys() == expected.keys()
        for name, gradient in got.items():
            gap = (gradient - expected[name]).norm()
            assert gap <= 1e-9 * expected[name].norm() + 1e-12, name


def autocast_step(fast: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[float, torch.Tensor]:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not fast)
    model, teacher = tiny.model(seed=1), tiny.model(seed=2).to(torch.bfloat16)
    packed = pack(tiny.sequences(6), max_tokens=60, pad_id=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            teacher_hidden = backbone_hidden(teacher, packed)
        loss, _ = tiled_sum(
            objectives.forward_kl,
            backbone_hidden(model, packed),
            head_of(model, tiny.VOCAB),
            packed.target_N,
            teacher_hidden_ND=teacher_hidden,
            teacher_head=head_of(teacher, tiny.VOCAB),
            tile=20,
        )
    loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient is not None and gradient.dtype == torch.float32
    return float(loss.detach()), gradient


def test_autocast_is_near_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both with matrix units (bfloat16 products) and without (float32 products)."""
    model, teacher = tiny.model(seed=1).double(), tiny.model(seed=2).double()
    exact = dense_loss(model, teacher, pad(tiny.sequences(6), pad_id=0), tiny.VOCAB)
    exact.backward()
    expected = model.get_input_embeddings().weight.grad
    assert expected is not None
    for fast in (True, False):
        loss, gradient = autocast_step(fast, monkeypatch)
        assert loss == pytest.approx(float(exact.detach()), rel=0.05)
        assert (gradient - expected).norm() <= 0.1 * expected.norm()


def gemma() -> PreTrainedModel:
    config = Gemma2Config(
        vocab_size=tiny.VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def granite() -> PreTrainedModel:
    config = GraniteConfig(
        vocab_size=tiny.VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, logits_scaling=4.0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def cohere() -> PreTrainedModel:
    config = CohereConfig(
        vocab_size=tiny.VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, logit_scale=0.25,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("build", [gemma, granite, cohere])
def test_logit_transforms_are_honoured(build: Callable[[], PreTrainedModel]) -> None:
    torch.manual_seed(0)
    model = build()
    sequences = tiny.sequences(3)
    packed = pad(sequences, pad_id=0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        head = head_of(model, tiny.VOCAB)
        assert not head.dense
        got = token_logprobs(backbone_hidden(model, packed), head, packed.target_N)
        logits = model(
            input_ids=packed.input_ids_RT, attention_mask=packed.attention_mask_RT, use_cache=False
        ).logits
    expected = logits.flatten(0, 1)[packed.source_N].log_softmax(-1)
    expected = expected.gather(-1, packed.target_N[:, None])[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_transform_falls_back_to_the_dense_path() -> None:
    class Odd(type(tiny.model())):  # type: ignore[misc]
        def forward(self, *args: object, **kwargs: object):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 0.5 + out.logits.sin()
            return out

    model = Odd(tiny.config("llama")).eval()
    packed = pack(tiny.sequences(4), max_tokens=60, pad_id=0)
    with pytest.warns(UserWarning, match="dense path"):
        head = head_of(model, tiny.VOCAB)
    assert head.dense
    hidden = backbone_hidden(model, packed)
    loss, _ = tiled_sum(objectives.cross_entropy, hidden, head, packed.target_N, tile=7)
    loss.backward()
    got = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    logits = model(
        input_ids=packed.input_ids_RT, position_ids=packed.position_ids_RT, use_cache=False
    ).logits
    dense = -logits.flatten(0, 1)[packed.source_N].log_softmax(-1)
    dense.gather(-1, packed.target_N[:, None]).sum().backward()
    torch.testing.assert_close(got, model.get_input_embeddings().weight.grad, rtol=1e-4, atol=1e-4)


def test_a_head_too_narrow_for_the_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="67 columns for 68 tokens"):
        head_of(tiny.model(), 68)
