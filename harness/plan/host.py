"""Main memory of one process beside what it trains with: models while they are read, checkpoints, the export.

On a GPU it is the host's, on a CPU it comes on top of the tensors of the training. What is shared among
processes is read by shares and exported tensor by tensor, unless its files hold other tensors than the model.
"""

from kdbench.harness.plan.job import Job, Parts
from kdbench.harness.plan.shapes import Shape
from kdbench.trainers.parallel.settings import FILE_BYTES

FILE = 4
"""Bytes of an element of a file at most."""
STATE = 3
"""Weights and two moments, in elements a trained parameter."""
SERIALISED = 2
"""Copies that safetensors makes of what becomes one file of a shared checkpoint."""


def loading(job: Job) -> Parts:
    """While models are read, before a GPU gets what was read whole.

    What is shared has its place on the device; of that main memory holds the tensor that is being read.
    """
    student, teacher, cpu = job.student, job.teacher, job.machine.cpu
    parts = {"weights": 0, "teacher": 0, "being read": 0}
    if _by_shares(student, job.share):
        parts["weights"] = cpu * job.held * student.parameters // job.share
        parts["being read"] = _tensor(student, job.held)
    else:
        parts["weights"] = job.held * student.parameters
    if teacher is None:
        return parts
    if _by_shares(teacher, job.teacher_share):
        parts["teacher"] = cpu * job.answering * teacher.layers_shared(job.teacher_share)
        parts["being read"] = max(parts["being read"], _tensor(teacher, job.answering))
    else:
        held = teacher.head if job.stored else teacher.parameters
        # the file stays mapped meanwhile, which a process on a CPU is counted for
        parts["teacher"] = (job.answering + cpu * FILE) * held
    return parts


def _by_shares(shape: Shape, share: int) -> bool:
    return share > 1 and shape.by_shares


def _tensor(shape: Shape, size: int) -> int:
    """Bytes of the largest tensor as a file has it, and rounded, if that is another precision."""
    return shape.largest * (FILE + (size if size != FILE else 0))


def copied(job: Job) -> int:
    """Bytes of a checkpoint while it is written, in each of the processes that share a student.

    It is written beside the training, of a copy, file by file.
    """
    if job.share == 1:
        return 0
    copy = STATE * job.full * job.trained // job.share
    return copy + SERIALISED * min(copy, FILE_BYTES)


def first(job: Job) -> int:
    """Bytes in the first process alone, at a checkpoint or at the end."""
    return max(_cloned(job), _exported(job))


def _cloned(job: Job) -> int:
    """A whole checkpoint: cloned, and on a GPU gathered before."""
    times = 1 if job.machine.cpu else 2
    return times * STATE * job.full * job.trained if job.share == 1 else 0


def _exported(job: Job) -> int:
    student = job.student
    if job.frozen:  # the base is read, and adapters are merged into it
        return FILE * student.parameters
    if job.machine.cpu and job.share == 1:
        return 0  # written as it lies there
    whole = job.full * student.parameters
    one = FILE_BYTES + job.full * student.largest
    return min(whole, one) if student.by_shares else whole
