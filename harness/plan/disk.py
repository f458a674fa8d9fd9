"""Bytes on disk: of a training while it runs, and of a run when it is done."""

from kdbench.harness.config import RunConfig
from kdbench.harness.plan.job import Job
from kdbench.harness.plan.rows import Rows, task_prompts
from kdbench.harness.plan.shapes import Shape
from kdbench.harness.plan.times import stored_rows
from kdbench.trainers.store.settings import bytes_of, likeliest

CHECKPOINT = 3 * 4
"""Bytes a parameter of a checkpoint: weights and two moments in float32."""
WEIGHTS = 4
AT_ONCE = 2
"""The new one stands before the old one goes."""
ANSWER = 2048
"""Bytes of a stored answer with its scores, about."""


def checkpoints(parameters: int) -> int:
    """Bytes that the checkpoints and best weights of a training take at most."""
    return AT_ONCE * (CHECKPOINT + WEIGHTS) * parameters


def training(trained: int, student: int = 0) -> int:
    """Bytes that a training takes at most, its student included, which has more parameters with LoRA."""
    return checkpoints(trained) + WEIGHTS * max(trained, student)


def of_store(kind: str, teacher: Shape, positions: float, element: int) -> int:
    """Bytes of a teacher store: what it keeps at each position, and the head.

    Args:
        kind: of ``teacher.store``.
        teacher: the model.
        positions: targets of all rows.
        element: bytes of a hidden unit as the teacher gives it.
    """
    head = 0 if likeliest(kind) else element * teacher.head
    return round(positions * bytes_of(kind, teacher.embed, element)) + head


def of_run(config: RunConfig, teacher: Shape, job: Job, rows: Rows) -> dict[str, int]:
    """Bytes while each training runs, and what stays."""
    student = job.student.parameters
    found = {
        "checkpoints and best weights (while training)": checkpoints(job.trained),
        "student": WEIGHTS * student,
    }
    if config.init_sft is not None:
        trained = job.student.trained(config.init_sft.lora)
        found["init's checkpoints (while it is trained)"] = checkpoints(trained)
        found["init (cache)"] = WEIGHTS * student
    if config.teacher_sft is not None:
        trained = teacher.trained(config.teacher_sft.lora)
        found["teacher's checkpoints (while it is fine-tuned)"] = checkpoints(trained)
        found["fine-tuned teacher (cache)"] = WEIGHTS * teacher.parameters
    if job.stored:
        element = {"bf16": 2, "fp64": 8}.get(config.train.precision, 4)
        positions = stored_rows(job, rows) * rows.lengths.response
        found["teacher store (cache)"] = of_store(config.teacher.store, teacher, positions, element)
    drawn = sum(len(way.seeds) for way in config.generate.ways)
    found["answers"] = task_prompts(config) * drawn * ANSWER
    return found
