"""The teacher's forward pass is paid once for rows that are read again, and never changes a result."""

import pytest
import torch

from kdbench.trainers import teacher
from kdbench.trainers.batching import Layout, pack
from kdbench.trainers.head.head import Head, backbone_hidden, head_of
from kdbench.trainers.optim import Recipe
from kdbench.trainers.teacher import TeacherMemory, teacher_side
from kdbench.trainers.types import Sequence
from tests.support import tiny

ROWS = tiny.sequences(12)
LAYOUT = Layout(row=64, pad_id=0, packed=True, device=torch.device("cpu"))


@pytest.fixture
def forwards(monkeypatch):
    """Sequences the teacher ran on, one number a forward pass."""
    counted: list[int] = []

    def counting(model, packed):
        counted.append(len(packed.sequences))
        return backbone_hidden(model, packed)

    monkeypatch.setattr(teacher, "backbone_hidden", counting)
    return counted


def memory(limit: int = 1 << 20) -> TeacherMemory:
    return TeacherMemory(tiny.model(seed=3), LAYOUT, micro_tokens=64, limit=limit)


def blocks(rows: list[Sequence]) -> list[list[Sequence]]:
    return [rows[i : i + 4] for i in range(0, len(rows), 4)]


def test_remembered_equals_computed():
    kept = memory()
    kept.keep("train", blocks(ROWS))
    mixed = LAYOUT([ROWS[7], Sequence((5, 6), (7, 8)), ROWS[0]])
    for packed in (LAYOUT(ROWS), LAYOUT(ROWS[3:9]), mixed):
        expected = backbone_hidden(kept.model, packed)
        assert torch.allclose(kept.hidden(packed), expected, atol=1e-5)


def test_every_row_is_computed_once(forwards):
    kept = memory()
    kept.keep("train", blocks(ROWS))
    for _ in range(3):
        for begin in (0, 3, 6, 9):
            kept.hidden(LAYOUT(ROWS[begin : begin + 3]))
    assert sum(forwards) == len(ROWS)


def test_bits_do_not_depend_on_when_a_row_was_asked_for():
    early, late = memory(), memory()
    for kept in (early, late):
        kept.keep("train", blocks(ROWS))
    for row in reversed(ROWS):
        early.hidden(LAYOUT([row]))
    packed = LAYOUT(ROWS[2:7])
    assert torch.equal(early.hidden(packed), late.hidden(packed))


def test_rows_that_do_not_fit_are_computed_each_time(forwards):
    kept = memory(limit=100)
    kept.keep("train", blocks(ROWS))
    for _ in range(2):
        kept.hidden(LAYOUT(ROWS[:3]))
    assert forwards == [3, 3]


@pytest.mark.parametrize(
    ("dtype", "device", "size"),
    [
        (torch.bfloat16, "cpu", 2),
        (torch.bfloat16, "cuda", 4),  # a last LayerNorm gives float32 under autocast
        (torch.float64, "cuda", 8),
    ],
)
def test_bytes_are_those_of_what_a_forward_pass_gives(dtype, device, size):
    assert teacher.element_size(dtype, device) == size


def test_memory_is_only_for_hidden_states_in_the_students_tokens():
    model = tiny.model()
    plain, dense = head_of(model, tiny.VOCAB), Head(None, None, 1.0, None, tiny.VOCAB)
    recipe = Recipe(steps=1)
    made = [
        teacher_side(model, head, LAYOUT, recipe, alike=alike)
        for head, alike in ((plain, True), (plain, False), (dense, True))
    ]
    assert [side.memory is not None for side in made] == [True, False, False]


def test_a_new_collection_replaces_the_old_one(forwards):
    kept = memory()
    kept.keep("rollouts", blocks(ROWS[:4]))
    kept.hidden(LAYOUT(ROWS[:4]))
    kept.keep("rollouts", blocks(ROWS[4:8]))
    for _ in range(2):
        kept.hidden(LAYOUT(ROWS[4:8]))
    done = sum(forwards)
    kept.hidden(LAYOUT(ROWS[:4]))  # forgotten
    assert (done, sum(forwards)) == (8, 12)


def test_columns_of_a_window_do_not_reach_the_teacher():
    kept = memory()
    kept.keep("rollouts", blocks(ROWS))
    scored = [
        Sequence(s.prompt, s.response, s.key, {"log_q": torch.zeros(len(s.response))})
        for s in ROWS[:3]
    ]
    expected = backbone_hidden(kept.model, pack(scored, max_tokens=64, pad_id=0))
    assert torch.allclose(kept.hidden(LAYOUT(scored)), expected, atol=1e-5)
