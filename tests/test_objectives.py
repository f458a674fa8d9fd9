"""Token objectives against the authors' numbers, brute force and finite differences."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from kdbench.harness.conform.objectives import named_objective
from kdbench.trainers.objectives import divergences as obj

CASES = json.loads((Path(__file__).parent / "data" / "token_objectives.json").read_text())["cases"]
ENTRIES = [(i, name) for i, case in enumerate(CASES) for name in case["expected"]]

ALL = {
    "cross_entropy": obj.cross_entropy,
    "forward_kl": obj.forward_kl,
    "forward_kl_T2": partial(obj.forward_kl, temperature=2.0),
    "word_kd": partial(obj.word_kd, kd_ratio=0.3),
    "reverse_kl": obj.reverse_kl,
    "top_3_reverse_kl": partial(obj.top_k_reverse_kl, k=3),
    "top_6_reverse_kl": partial(obj.top_k_reverse_kl, k=6),
    "jsd": partial(obj.generalised_jsd, beta=0.3),
    "skew_forward": obj.skew_forward_kl,
    "skew_reverse": obj.skew_reverse_kl,
    "total_variation": obj.total_variation,
    "symmetric": obj.symmetric_kl,
    "adaptive": obj.adaptive_kl,
    "dpkd_token": obj.dpkd_token,
    "mixed": obj.mixed(obj.reverse_kl, 0.4),
}
DIVERGENCES = set(ALL) - {"cross_entropy", "word_kd", "dpkd_token", "mixed"}


def logits(n: int = 5, vocab: int = 7, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, n, vocab, generator=generator, dtype=torch.float64) * 2
    return student, teacher, torch.randint(vocab, (n,), generator=generator)


@pytest.mark.parametrize(("case", "name"), ENTRIES)
def test_values_and_gradients_of_the_authors_code(case: int, name: str) -> None:
    data = CASES[case]
    expected = data["expected"][name]
    student = torch.tensor(data["student_logits"], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(data["teacher_logits"], dtype=torch.float64)
    labels = torch.tensor(data["labels"])
    # A label is predicted by its own position here: the file is already shifted where it must be.
    mask = labels != -100
    found = named_objective(name)
    assert found is not None
    values = found.objective(student[mask], teacher[mask], labels[mask], {})
    values["loss"].mean().backward()
    assert student.grad is not None
    assert float(values[found.value].detach().mean()) == pytest.approx(expected["loss"], rel=1e-4)
    assert float(student.grad.norm()) == pytest.approx(expected["grad_l2"], rel=1e-4)
    row = torch.tensor(expected["grad_row"], dtype=torch.float64)
    # The file is float32: a gradient of 1e-8 that cancels to zero there is noise.
    allowed = 1e-4 * torch.maximum(row.abs(), 0.01 * row.abs().max()) + 1e-7
    assert ((student.grad[mask][0] - row).abs() <= allowed).all()


def test_unknown_reference_name_is_no_recipe() -> None:
    assert named_objective("no_such_divergence_0.5") is None


@pytest.mark.parametrize("name", sorted(ALL))
def test_gradient_is_that_of_the_loss(name: str) -> None:
    student, teacher, target = logits()
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)

    def total(x: torch.Tensor) -> torch.Tensor:
        return (weight * ALL[name](x, teacher, target, {})["loss"]).sum()

    if name == "adaptive":  # its weights are held fixed, so it is not the gradient of its value
        pytest.skip("the head and tail weights of AKL carry no gradient by definition")
    assert torch.autograd.gradcheck(total, student.requires_grad_(), atol=1e-6)


def test_taid_gradient_with_its_target_frozen() -> None:
    student, teacher, target = logits()
    frozen = student.clone()
    loss = partial(obj.taid, t=0.4, frozen=frozen)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, teacher, target, {})["loss"], student.requires_grad_(), atol=1e-6
    )
    implicit = obj.taid(student, teacher, target, {}, t=0.4)["loss"]
    assert torch.equal(implicit, loss(student, teacher, target, {})["loss"])


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_divergence_vanishes_where_the_models_agree(name: str) -> None:
    student, _, target = logits()
    student.requires_grad_()
    value = ALL[name](student, student.detach(), target, {})["loss"]
    assert value.abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient.abs().max() < 1e-12


def test_brute_force_forms() -> None:
    student, teacher, target = logits()
    p, q = teacher.softmax(-1), student.softmax(-1)
    m = 0.3 * p + 0.7 * q
    brute = {
        "forward_kl": (p * (p / q).log()).sum(-1),
        "reverse_kl": (q * (q / p).log()).sum(-1),
        "jsd": 0.3 * (p * (p / m).log()).sum(-1) + 0.7 * (q * (q / m).log()).sum(-1),
        "total_variation": 0.5 * (p - q).abs().sum(-1),
        "skew_forward": (p * (p / (0.1 * p + 0.9 * q)).log()).sum(-1),
        "skew_reverse": (q * (q / (0.9 * p + 0.1 * q)).log()).sum(-1),
    }
    for name, expected in brute.items():
        torch.testing.assert_close(ALL[name](student, teacher, target, {})["loss"], expected)


def test_top_k_merges_what_is_left() -> None:
    student, teacher, target = logits()
    p, q = teacher.softmax(-1), student.softmax(-1)
    full = obj.reverse_kl(student, teacher, target, {})["loss"]
    before = torch.zeros(5, dtype=torch.float64)
    for k in range(1, 8):
        value = obj.top_k_reverse_kl(student, teacher, target, {}, k=k)["loss"]
        expected = []
        for row in range(5):
            top = p[row].argsort(descending=True)[:k]
            a, b = (torch.cat([x[row][top], 1 - x[row][top].sum()[None]]) for x in (q, p))
            a, b = (a[:-1], b[:-1]) if k == 7 else (a, b)
            expected.append((a * (a / b).log()).sum())
        torch.testing.assert_close(value, torch.stack(expected))
        assert (value >= before - 1e-12).all() and (value <= full + 1e-12).all()
        before = value
    torch.testing.assert_close(before, full)


@pytest.mark.parametrize("name", sorted(ALL))
def test_tokens_that_both_models_rule_out_cost_nothing(name: str) -> None:
    student, teacher, target = logits()
    expected = ALL[name](student, teacher, target, {})["loss"]
    out = torch.full((5, 2), -torch.inf, dtype=torch.float64)
    wide = torch.cat([student, out], -1).requires_grad_()
    value = ALL[name](wide, torch.cat([teacher, out], -1), target, {})["loss"]
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), wide)
    assert gradient.isfinite().all()
    assert not gradient[:, -2:].any()


def test_forbidden_token_the_teacher_wants_is_infinitely_bad() -> None:
    student, teacher, target = logits()
    student[:, 0] = -torch.inf
    assert obj.forward_kl(student, teacher, target, {})["loss"].isinf().all()
    assert obj.reverse_kl(student, teacher, target, {})["loss"].isfinite().all()


def test_a_missing_teacher_is_named() -> None:
    student, _, target = logits()
    with pytest.raises(ValueError, match="no teacher logits"):
        obj.forward_kl(student, None, target, {})
