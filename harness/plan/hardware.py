"""Accelerators a plan is made for, and how a run is spread over them."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from kdbench.harness.errors import InputError
from kdbench.trainers.parallel.settings import Parallel

GIB = 2**30
NODE = 8
"""Cards of a node."""
RESERVED_GB = 1.5
"""What a CUDA context, communication buffers and libraries take of each card."""
FRAGMENTED = 0.05
"""Share of a card that an allocator cannot hand out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cards of one kind, one process each; or the processes of a CPU.

    Attributes:
        name: of the kind.
        memory_gb: GiB of one.
        count: how many.
        half, single: dense matrix products a second in bfloat16 and float32 (TFLOP/s), data sheets.
        bandwidth: of its memory, TB/s.
        cpu: no accelerator at all.
        amx: a CPU with fast half-precision products.
    """

    name: str
    memory_gb: float
    half: float = 0.0
    single: float = 0.0
    bandwidth: float = 0.0
    count: int = 1
    cpu: bool = False
    amx: bool = False

    @property
    def usable(self) -> int:
        """Bytes of one card that tensors may take."""
        return round((self.memory_gb * (1 - FRAGMENTED) - RESERVED_GB) * GIB)

    @property
    def nodes(self) -> int:
        """Machines of eight cards, or fewer."""
        return -(-self.count // NODE)


CARDS = {
    "a100-40": Machine(name="a100-40", memory_gb=40, half=312, single=19.5, bandwidth=1.56),
    "a100": Machine(name="a100", memory_gb=80, half=312, single=19.5, bandwidth=2.04),
    "h100": Machine(name="h100", memory_gb=80, half=989, single=67, bandwidth=3.35),
    "h200": Machine(name="h200", memory_gb=141, half=989, single=67, bandwidth=4.8),
    "l40s": Machine(name="l40s", memory_gb=48, half=362, single=91, bandwidth=0.86),
    "rtx4090": Machine(name="rtx4090", memory_gb=24, half=165, single=83, bandwidth=1.01),
}
BY_MEMORY = {24: "rtx4090", 40: "a100-40", 48: "l40s", 80: "a100", 141: "h200"}
CPU = Machine(name="cpu", memory_gb=float("inf"), cpu=True)


def machine_of(asked: str) -> Machine:
    """``8x80`` (cards of 80 GiB), ``8xh100``, ``h200``, ``1x24`` as a machine.

    Raises:
        InputError: it is none of these.
    """
    found = re.fullmatch(r"(?:(\d+)\s*[x×*])?\s*([a-z0-9-]+(?:\.\d+)?)", asked.strip().lower())
    advice = f"write 8x80 (cards of 80 GiB) or 8x{'|'.join(CARDS)}"
    if found is None or found.group(1) == "0":
        raise InputError(f"--gpus {asked!r} says no hardware; {advice}")
    count, kind = int(found.group(1) or 1), found.group(2)
    if kind in CARDS:
        return replace(CARDS[kind], count=count)
    if kind.isalpha():
        raise InputError(f"--gpus {asked!r} says no hardware; {advice}")
    if not re.fullmatch(r"\d+(\.\d+)?", kind) or not 0 < float(kind) < 10_000:
        raise InputError(f"--gpus {asked!r} names no card that is known; {advice}")
    return of_memory(float(kind), count)


def of_memory(gigabytes: float, count: int) -> Machine:
    """Cards of this size; their speed is that of the known card nearest to it."""
    nearest = min(BY_MEMORY, key=lambda size: abs(size - gigabytes))
    return replace(CARDS[BY_MEMORY[nearest]], memory_gb=gigabytes, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How a run is spread: settings ``parallel``.

    Attributes:
        shard: every rank holds all weights, or its share of weights, gradients and optimiser state.
        teacher: every rank holds all of the teacher, or its share.
        checkpoint_activations: layers are computed again in backward.
    """

    shard: Literal["none", "fsdp2"] = "none"
    teacher: Literal["whole", "sharded"] = "whole"
    checkpoint_activations: bool = False

    def share(self, count: int) -> int:
        """Among how many ranks the student's state is divided."""
        return count if self.shard == "fsdp2" else 1

    def teacher_share(self, count: int) -> int:
        """The same for the teacher."""
        return count if self.teacher == "sharded" else 1


def scaling_of(parallel: Parallel) -> Scaling:
    """As a run's configuration says it."""
    return Scaling(**parallel.model_dump())


WHOLE = Scaling()
"""Every process has all of both models."""
