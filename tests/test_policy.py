"""MiniLLM's estimator against the exact gradient, by enumeration of every answer."""

from pathlib import Path

import pytest
import tiny
import torch
from enumeration import Table, answers, exact_gradient, picked

from kdbench.trainers.methods.minillm import MiniLLM
from kdbench.trainers.objectives.policy import importance_weight, returns_after
from kdbench.trainers.sources import as_prompts, student_responses


def estimator_mean(student: Table, teacher: Table, method: MiniLLM) -> torch.Tensor:
    """Σ_y q(y) · (gradient of the method's loss on y), summed over tokens."""
    leaf = student.logits.clone().requires_grad_(True)
    config = method.config
    total = torch.zeros((), dtype=torch.float64)
    for answer in answers():
        old = picked(student.of(answer, student.logits), answer)
        log_p = picked(teacher.of(answer, teacher.logits), answer)
        columns = {
            "log_q": old,
            "weight": importance_weight(old, log_p, config.teacher_mix),
            "advantage": returns_after(
                log_p - old, length_norm=config.length_norm, inclusive=not config.single_step
            ),
        }
        values = method.token_loss(
            student.of(answer, leaf),
            teacher.of(answer, teacher.logits),
            torch.tensor(answer),
            columns,
        )
        total = total + old.sum().exp() * values["loss"].sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient


def test_answers_are_all_answers() -> None:
    table = Table(0)
    mass = sum(picked(table.of(a, table.logits), a).sum().exp() for a in answers())
    assert float(mass) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("single_step", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_unbiased_without_length_norm(single_step: bool, seed: int) -> None:
    student, teacher = Table(seed), Table(seed + 100)
    method = MiniLLM(MiniLLM.Config(teacher_mix=0.0, length_norm=False, single_step=single_step))
    error = (estimator_mean(student, teacher, method) - exact_gradient(student, teacher)).abs()
    assert float(error.max()) < 1e-10


def test_length_norm_is_biased_on_purpose() -> None:
    student, teacher = Table(1), Table(101)
    method = MiniLLM(MiniLLM.Config(teacher_mix=0.0, length_norm=True))
    error = (estimator_mean(student, teacher, method) - exact_gradient(student, teacher)).norm()
    assert float(error) > 1e-3


def test_importance_weight_is_unbiased_per_token() -> None:
    student, teacher = torch.randn(2, 50, dtype=torch.float64).log_softmax(-1)
    alpha = 0.2
    mixture = (1 - alpha) * student.exp() + alpha * teacher.exp()
    weight = importance_weight(student, teacher, alpha)
    torch.testing.assert_close(mixture * weight, student.exp())


def test_importance_weight_is_one_without_mixing() -> None:
    log_q = torch.tensor([-900.0, -1.0])
    assert importance_weight(log_q, torch.tensor([-1.0, -900.0]), 0.0).tolist() == [1.0, 1.0]


def test_collections_fill_whole_steps_and_a_row_that_comes_again_gets_another_answer(
    tmp_path: Path,
) -> None:
    """Nine answers a collection, in steps of eight: two steps, of which the second is whole too."""
    method = MiniLLM(MiniLLM.Config.model_validate({"ppo": {"rollouts": 9, "inner_epochs": 1}}))
    loop = tiny.loop(method, student=tiny.model(), teacher=tiny.model(seed=2), out=tmp_path)
    (stream, *_) = method.window(loop.ctx, 0)
    assert len(method.rollouts) == 16 and len(stream.sequences) == loop.ctx.batch_size == 8
    row = loop.ctx.prompts[0]
    three = [row, row, loop.ctx.prompts[1]]
    assert [prompt.sample for prompt in as_prompts(three, apart=True)] == [0, 1, 0]
    assert [prompt.sample for prompt in as_prompts(three)] == [0, 0, 0]
    one, two = student_responses(loop.ctx, 0, [row] * 2, temperature=3.0)
    assert one.response != two.response


def test_returns() -> None:
    rewards = torch.tensor([1.0, 2.0, 4.0])
    assert returns_after(rewards, length_norm=False, inclusive=False).tolist() == [6, 4, 0]
    assert returns_after(rewards, length_norm=True, inclusive=False).tolist() == [3, 4, 0]
    assert returns_after(rewards, length_norm=False, inclusive=True).tolist() == [7, 6, 4]
    assert returns_after(rewards, length_norm=True, inclusive=True).tolist() == pytest.approx(
        [7 / 3, 3, 4]
    )
