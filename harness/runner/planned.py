"""What the planner says of a training that is about to run, to stand beside what it then took."""

import statistics
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from kdbench.harness.config import TrainConfig
from kdbench.harness.errors import InputError
from kdbench.harness.own_methods import METHODS
from kdbench.harness.plan.hardware import CPU, GIB, Machine, scaling_of
from kdbench.harness.plan.job import Job, Lengths
from kdbench.harness.plan.memory import highest
from kdbench.harness.plan.shapes import Shape, shape_of
from kdbench.harness.plan.work import work_of
from kdbench.trainers.cpu import has_matrix_units
from kdbench.trainers.loop import Loop
from kdbench.trainers.types import Sequence


def planned_mb(loop: Loop, training: TrainConfig, decode_rows: int, before_mb: float) -> float:
    """Peak memory of a training by `kdbench.harness.plan`, MiB; 0 if its models' sizes cannot be read.

    Args:
        loop: the training, assembled.
        training: its recipe, with precision resolved.
        decode_rows: answers written together.
        before_mb: what a CPU's process had before the models were loaded, which its peak counts too.
    """
    side = loop.teacher
    try:
        student = _shape(loop.student)
        teacher = None if side is None else _shape(side)
    except InputError:  # another kind of model than a plan knows
        return 0.0
    job = Job(
        student=student,
        teacher=teacher,
        recipe=training,
        work=work_of(_name(loop), loop.method.config.model_dump(), loop.method.card),
        lengths=_lengths(loop.ctx.train, loop.ctx.text),
        decode_rows=decode_rows,
        machine=_machine(loop.accelerator),
        scaling=scaling_of(loop.parallel),
        stored=side is not None and side.device.type == "meta",
    )
    return highest(job) / 2**20 + (before_mb if job.machine.cpu else 0.0)


def resident_mb() -> float:
    """Memory that this process has now, MiB; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    import resource

    return pages * resource.getpagesize() / 2**20


def _shape(model: PreTrainedModel) -> Shape:
    return shape_of(model.config.to_dict(), model.config.model_type)


def _name(loop: Loop) -> str:
    kind = type(loop.method)
    places = {place: name for name, place in METHODS.items()}
    return places.get(f"{kind.__module__}:{kind.__name__}", "")


def _lengths(train: Seq[Sequence], text: Seq[Sequence]) -> Lengths:
    def mean(counts: list[int]) -> float:
        return statistics.fmean(counts) if counts else 0.0

    return Lengths(
        prompt=mean([len(s.prompt) for s in train]),
        response=mean([len(s.response) for s in train]),
        text=mean([len(s) for s in text]),
        longest=max(map(len, train), default=None),
    )


def _machine(accelerator: Accelerator) -> Machine:
    count, device = accelerator.num_processes, accelerator.device
    if device.type != "cuda":
        return replace(CPU, count=count, amx=has_matrix_units())
    memory = torch.cuda.get_device_properties(device).total_memory / GIB
    return Machine(name="cuda", memory_gb=memory, count=count)
