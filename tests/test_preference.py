"""DPKD's preference forms against formulas written out, and what a pair does to the gradient."""

import math

import pytest
import torch

from kdbench.trainers.objectives.preference import cpo, dpo, ipo, simpo


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_forms_by_hand() -> None:
    q_win, q_lose, p_win, p_lose = values(-1.2), values(-0.7), values(-0.4), values(-2.0)
    between = (q_win - p_win) - (q_lose - p_lose)
    margin = (-1.2 + 0.4) - (-0.7 + 2.0)
    assert float(dpo(between, beta=0.3)) == pytest.approx(-math.log(sigmoid(0.3 * margin)))
    assert float(ipo(between, beta=0.3)) == pytest.approx((margin - 1 / 0.6) ** 2)
    assert float(simpo(q_win, q_lose, beta=2.0, gamma=0.5)) == pytest.approx(
        -math.log(sigmoid(2.0 * -0.5 - 0.5))
    )
    assert float(cpo(q_win, q_lose, values(0.9), beta=0.3)) == pytest.approx(
        -math.log(sigmoid(0.3 * -0.5)) + 0.9
    )


def test_identical_models_and_answers_sit_at_log_two() -> None:
    same = values(-3.0)
    assert float(dpo((same - same) - (same - same), beta=1.0)) == pytest.approx(math.log(2))


def test_gradient_raises_the_chosen_and_lowers_the_rejected() -> None:
    win, lose = values(-1.0).requires_grad_(), values(-1.0).requires_grad_()
    dpo((win - values(-1.0)) - (lose - values(-1.0)), beta=0.5).sum().backward()
    assert win.grad is not None and lose.grad is not None
    assert float(win.grad) == pytest.approx(-0.25)  # −β σ(0)
    assert float(lose.grad) == pytest.approx(0.25)
