"""Formulas of the methods against brute force, finite differences and known numbers."""

import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from enumeration import Table, answers, exact_gradient, picked
from torch import Tensor

from kdbench.trainers.alignment import align, ends
from kdbench.trainers.methods.distillm2 import curriculum
from kdbench.trainers.methods.lsrkd import smoothed
from kdbench.trainers.methods.mrkd import remembered
from kdbench.trainers.methods.opd import reward_to_go, reward_to_go_k3
from kdbench.trainers.methods.plad import calibration
from kdbench.trainers.methods.rlkd import ranked
from kdbench.trainers.methods.taid import Schedule
from kdbench.trainers.methods.uld import sorted_distance, span_probabilities
from kdbench.trainers.objectives import divergences as obj
from kdbench.trainers.objectives.ranking import decreasing_fit, soft_rank, spearman
from kdbench.trainers.objectives.sinkhorn import sinkhorn_cost

F64 = torch.float64
INF = math.inf
ALPHAS = torch.tensor([0.05, 0.1, 0.3, 0.5, 0.9, 0.1], dtype=F64)


def log(x: float) -> float:
    return math.log(x) if x > 0 else -INF


def kl(a: list[float], b: list[float]) -> float:
    total = 0.0
    for x, y in zip(a, b, strict=True):
        if x > 0:
            total += x * (math.log(x) - log(y))
    return total


def mix(a: list[float], b: list[float], w: float) -> list[float]:
    return [w * x + (1 - w) * y for x, y in zip(a, b, strict=True)]


def brute_akl(p: list[float], q: list[float]) -> float:
    order = sorted(range(len(p)), key=lambda v: -p[v])
    mass, head, tail = 0.0, 0.0, 0.0
    for place, v in enumerate(order):
        mass += p[v]
        if place == 0 or mass <= 0.5:
            head += abs(p[v] - q[v])
        else:
            tail += abs(p[v] - q[v])
    if head + tail == 0:
        return 0.0
    share = head / (head + tail)
    forward, reverse = kl(p, q), kl(q, p)
    return (share * forward if share else 0.0) + ((1 - share) * reverse if share < 1 else 0.0)


Brute = Callable[[list[float], list[float], int], float]
TOKEN: dict[str, tuple[obj.TokenObjective, Brute, bool]] = {
    # name: ours, by hand from (p, q, row), whether it is a divergence
    "fkl": (obj.forward_kl, lambda p, q, i: kl(p, q), True),
    "rkl": (obj.reverse_kl, lambda p, q, i: kl(q, p), True),
    "jsd": (
        partial(obj.generalised_jsd, beta=0.3),
        lambda p, q, i: 0.3 * kl(p, mix(p, q, 0.3)) + 0.7 * kl(q, mix(p, q, 0.3)),
        True,
    ),
    "skl": (
        partial(obj.skew_forward_kl, alpha=0.1),
        lambda p, q, i: kl(p, mix(p, q, 0.1)),
        True,
    ),
    "srkl": (
        partial(obj.skew_reverse_kl, alpha=0.1),
        lambda p, q, i: kl(q, mix(p, q, 0.9)),
        True,
    ),
    "tvd": (
        obj.total_variation,
        lambda p, q, i: 0.5 * sum(abs(x - y) for x, y in zip(p, q, strict=True)),
        True,
    ),
    "sym-kl": (
        partial(obj.symmetric_kl, forward_weight=0.1),
        lambda p, q, i: 0.1 * kl(p, q) + 0.9 * kl(q, p),
        True,
    ),
    "akl": (obj.adaptive_kl, lambda p, q, i: brute_akl(p, q), True),
    "distillm2-skl": (
        lambda s, t, y, c: obj.skewed(s, t, y, {"alpha": ALPHAS[: len(s)]}, reverse=False),
        lambda p, q, i: kl(p, mix(p, q, float(ALPHAS[i]))),
        True,
    ),
    "distillm2-srkl": (
        lambda s, t, y, c: obj.skewed(s, t, y, {"alpha": ALPHAS[: len(s)]}, reverse=True),
        lambda p, q, i: kl(q, mix(q, p, float(ALPHAS[i]))),
        False,  # its value is; what its gradient holds fixed makes the gradient differ
    ),
}


def cases() -> tuple[Tensor, Tensor, Tensor]:
    """Random rows, a peaked teacher, both with ruled-out tokens, identical rows."""
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 6, 8, generator=generator, dtype=F64) * 2
    teacher[1] = torch.tensor([30.0, *[0.0] * 7], dtype=F64)
    student[2, 5:], teacher[2, 5:] = -INF, -INF
    teacher[3] = student[3]
    student[4], teacher[4] = 1.0, 1.0
    student[5, 0], teacher[5, 0] = -INF, -INF
    return student, teacher, torch.tensor([0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("name", TOKEN)
def test_brute_force_on_hard_rows(name: str) -> None:
    student, teacher, target = cases()
    ours, by_hand, _ = TOKEN[name]
    values = ours(student, teacher, target, {})["loss"]
    for i in range(len(student)):
        p, q = teacher[i].softmax(-1).tolist(), student[i].softmax(-1).tolist()
        assert float(values[i]) == pytest.approx(by_hand(p, q, i), rel=1e-9, abs=1e-12), i


@pytest.mark.parametrize("name", TOKEN)
def test_gradients_are_finite_and_zero_at_the_teacher(name: str) -> None:
    student, teacher, target = cases()
    ours, _, divergence = TOKEN[name]
    leaf = student.clone().requires_grad_(True)
    ours(leaf, teacher, target, {})["loss"].sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    if divergence:
        assert float(leaf.grad[3:5].abs().max()) < 1e-12


@pytest.mark.parametrize("name", [n for n in TOKEN if n not in ("akl", "distillm2-srkl")])
def test_finite_differences(name: str) -> None:
    student, teacher, target = cases()
    keep = torch.tensor([0, 1])
    ours = TOKEN[name][0]

    def total(x: Tensor) -> Tensor:
        return ours(x, teacher[keep], target[keep], {})["loss"]

    if name == "tvd":  # kinks where p = q; these rows have none near
        assert ((student[keep].softmax(-1) - teacher[keep].softmax(-1)).abs() > 1e-5).all()
    leaf = student[keep].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(total, leaf, eps=1e-7, atol=1e-6)


def test_what_distillm2_holds_fixed() -> None:
    """The gradient is that of D(q | (1−α) p + α c) with c a constant equal to q."""
    student, teacher, target = cases()
    leaf, again = (student[:2].clone().requires_grad_(True) for _ in range(2))
    alpha = ALPHAS[:2]
    obj.skewed(leaf, teacher[:2], target[:2], {"alpha": alpha}, reverse=True)[
        "loss"
    ].sum().backward()
    q, held, p = again.softmax(-1), student[:2].softmax(-1), teacher[:2].softmax(-1)
    mixture = alpha[:, None] * held + (1 - alpha[:, None]) * p
    (q * (q / mixture).log()).sum().backward()
    torch.testing.assert_close(leaf.grad, again.grad)


# -- ranks ------------------------------------------------------------------------------------------


def pool_adjacent_violators(values: list[float]) -> list[float]:
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            b, a = blocks.pop(), blocks.pop()
            blocks.append([(a[0] * a[1] + b[0] * b[1]) / (a[1] + b[1]), a[1] + b[1]])
    return [mean for mean, count in blocks for _ in range(int(count))]


def test_decreasing_fit_is_isotonic_regression() -> None:
    values = torch.randn(50, 9, generator=torch.Generator().manual_seed(0), dtype=F64)
    expected = torch.tensor([pool_adjacent_violators(r) for r in values.tolist()], dtype=F64)
    torch.testing.assert_close(decreasing_fit(values), expected)


def test_soft_ranks() -> None:
    values = torch.tensor([[3.0, -1.0, 20.0, 8.0]], dtype=F64)
    torch.testing.assert_close(
        soft_rank(values, strength=0.1), torch.tensor([[2.0, 1, 4, 3]], dtype=F64)
    )
    mask = torch.tensor([[True, True, False, True]])
    alone = soft_rank(values[:, [0, 1, 3]])
    torch.testing.assert_close(soft_rank(values, mask=mask)[:, [0, 1, 3]], alone)
    assert torch.autograd.gradcheck(soft_rank, torch.randn(3, 5, dtype=F64).requires_grad_(True))
    full = torch.ones(1, 4, dtype=torch.bool)
    ranks = soft_rank(values, strength=0.1)
    assert float(spearman(ranks, ranks, full)) == pytest.approx(1.0)
    assert float(spearman(ranks, 5 - ranks, full)) == pytest.approx(-1.0)


def test_ranking_loss_by_hand() -> None:
    """Ranks of the union of both top-2 sets, correlated by hand; none at student = teacher."""
    teacher = torch.tensor([[9.0, 6.0, 3.0, 0.0, -3.0]], dtype=F64)
    student = torch.tensor([[0.0, 9.0, 3.0, 6.0, -3.0]], dtype=F64)
    objective = partial(ranked, divergence=obj.total_variation, k=2, weight=2.0)
    value = objective(student, teacher, torch.tensor([0]), {})["ranking"]
    one, other = [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]  # tokens 0, 1, 3
    assert float(value) == pytest.approx(
        1 - sum((a - 2) * (b - 2) for a, b in zip(one, other, strict=True)) / 2
    )
    hard, _, target = cases()
    leaf = hard.requires_grad_(True)
    same = objective(leaf, hard.detach(), target, {})["loss"]
    rows = [0, 1, 2, 3, 5]  # row 4 has no order at all
    assert float(same[rows].detach().abs().max()) < 1e-6
    same.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


# -- objectives over groups and sequences ------------------------------------------------------------


def test_sinkhorn_by_hand() -> None:
    student, teacher, _ = cases()
    student, teacher = student[:4], teacher[:4]
    q, p = (x.div(2.0).softmax(-1).tolist() for x in (student, teacher))
    cost = [[sum(abs(a - b) for a, b in zip(x, y, strict=True)) for y in p] for x in q]
    plan = [[math.exp(-c / 0.1) for c in row] for row in cost]
    for _ in range(20):
        plan = [[x / sum(row) for x in row] for row in plan]
        columns = [sum(row[j] for row in plan) for j in range(4)]
        plan = [[x / columns[j] for j, x in enumerate(row)] for row in plan]
    expected = sum(plan[i][j] * cost[i][j] for i, j in itertools.product(range(4), repeat=2))
    assert float(sinkhorn_cost(student, teacher)) == pytest.approx(expected, rel=1e-9)
    leaf = student[:2].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: sinkhorn_cost(x, teacher[:2]), leaf, atol=1e-6)


def test_calibration_and_curriculum() -> None:
    win, lose = torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -1.0])
    assert calibration(win, lose, torch.tensor([0.5, 0.5])).tolist() == [0.0, 2.5]
    gap = torch.tensor([0.2, 0.4, -0.1], dtype=F64)
    alpha = curriculum(gap, 0.1, 0.01)
    by_hand = [min(0.1, max(0.01, 1 - 0.9 * (0.5 / 3) / (g + 1e-5))) for g in (0.2, 0.4, -0.1)]
    assert alpha.tolist() == pytest.approx(by_hand)


def test_label_smoothing_and_memory_by_hand() -> None:
    student, teacher, target = cases()
    settings = {"weight": 0.3, "temperature": 2.0}
    value = smoothed(student, None, target, {}, **settings, correct=0.6)["loss"]
    kept = remembered(student, teacher, target, {}, **settings)["loss"]
    for i in (0, 1, 3, 4):
        y = int(target[i])
        soft = (student[i] / 2).softmax(-1).tolist()
        uniform = [0.6 if v == y else 0.4 / 7 for v in range(8)]
        nll = -float(student[i].log_softmax(-1)[y])
        assert float(value[i]) == pytest.approx(nll + 0.3 * 4 * kl(uniform, soft))
        old = (teacher[i] / 2).softmax(-1).tolist()
        assert float(kept[i]) == pytest.approx(nll + 0.3 * 4 * kl(old, soft))
    leaf = student[[0, 1]].clone().requires_grad_(True)
    objective = partial(smoothed, **settings, correct=0.6)
    assert torch.autograd.gradcheck(lambda x: objective(x, None, target[:2], {})["loss"], leaf)


def test_uld_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]], dtype=F64)
    token, rest = torch.tensor([0, 2]), torch.tensor([math.log(0.25), 0.0], dtype=F64)
    found = span_probabilities(logits, token, rest)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, dtype=F64))
    p = logits.softmax(-1)
    torch.testing.assert_close(found[0, [0, 3]], torch.stack([p[0, 0] / 4, p[0, 0] * 3 / 4]))
    torch.testing.assert_close(found[1, :3], p[1])
    q, other = torch.tensor([[0.1, 0.9]]), torch.tensor([[0.2, 0.5, 0.3]])
    assert float(sorted_distance(q, other)) == pytest.approx(0.4 + 0.2 + 0.2)
    assert float(sorted_distance(other, other[:, [2, 0, 1]])) == 0.0


def test_alignment_of_tokens_that_end_inside_characters() -> None:
    def decoder(pieces: list[bytes]) -> Callable[[list[int]], str]:
        return lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace")

    one, other = (
        [b"na", "ï".encode()[:1], "ï".encode()[1:], b"ve", b"ly"],
        [b"n", b"a", "ïv".encode(), b"ely"],
    )
    left, right = ends(range(5), decoder(one)), ends(range(4), decoder(other))
    assert left == [2, None, 3, 5, 7]
    assert right == [1, 2, 4, 7]
    assert align(left, right) == ([0, 1, 1, 1, 1], [0, 0, 1, 1])
    assert align([1, 2, 3], [1, 2, 3]) == ([0, 1, 2], [0, 1, 2])


# -- sampled estimators and schedules ----------------------------------------------------------------


@pytest.mark.parametrize("surrogate", [reward_to_go, reward_to_go_k3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reward_to_go_is_unbiased_by_enumeration(
    seed: int, surrogate: Callable[[Tensor, Tensor], Tensor]
) -> None:
    student, teacher = Table(seed), Table(seed + 100)
    leaf = student.logits.clone().requires_grad_(True)
    total = torch.zeros((), dtype=F64)
    for answer in answers():
        log_q = picked(student.of(answer, leaf), answer)
        log_p = picked(teacher.of(answer, teacher.logits), answer)
        total = total + log_q.detach().sum().exp() * surrogate(log_q, log_p)
    (gradient,) = torch.autograd.grad(total, leaf)
    assert float((gradient - exact_gradient(student, teacher)).abs().max()) < 1e-10


def test_taid_schedule() -> None:
    schedule = Schedule(0.4, 1.0, 5e-4, 0.99)
    assert schedule.update(2.0, 0.0) == 0.4
    mean = 0.01 * 0.5
    ahead = 0.4 + 5e-4 / (1 + math.exp(-mean)) * 0.6
    assert schedule.update(1.0, 0.0) == pytest.approx(ahead)
    assert schedule.update(1.0, 0.5) == pytest.approx(0.7)
    fast = Schedule(0.4, 1.0, 1.0, 0.0)
    assert [fast.update(x, 0.1) for x in (4.0, 2.0, 1.0)][-1] > 0.7


def test_taid_schedule_of_the_authors() -> None:
    path = Path(__file__).parent / "data" / "taid_schedule.json"
    for case in json.loads(path.read_text())["cases"]:
        s = case["settings"]
        schedule = Schedule(s["t_start"], s["t_end"], s["alpha"], s["beta"])
        steps = enumerate(case["losses"])
        found = [schedule.update(x, i / case["num_train_steps"]) for i, x in steps]
        assert found == pytest.approx(case["expected_t"], rel=1e-5)
