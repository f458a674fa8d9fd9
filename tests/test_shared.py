"""What runs share: the world's teacher, inits and teacher answers are the same for whoever comes."""

from kdbench.harness.config import TrainConfig
from kdbench.harness.resolve import resolve
from kdbench.harness.runner.prepare import world_data
from kdbench.tasks import mini
from kdbench.tasks.mini.settings import teacher_training


def test_the_world_teacher_learns_the_same_whatever_the_run_asks_for() -> None:
    plain = resolve(suite="mini-test", method="sft")
    other = resolve(
        suite="mini-test",
        method="sft",
        assignments=["pair.template=alpaca", "data.boundary=joint", "data.limit=3"],
    )
    training = TrainConfig.model_validate(teacher_training("mini-test"))
    tokenizer = mini.build_tokenizer()
    made = [world_data(run, "mini-test", training, tokenizer) for run in (plain, other)]
    assert made[0] == made[1]
    assert len(made[0].train) > 100
