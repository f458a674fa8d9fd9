"""How a training is spread over processes; part of a run's configuration, so it is read without torch."""

from typing import Literal

from pydantic import Field

from kdbench.harness.settings import Settings

FILE_BYTES = 500_000_000
"""Bytes of tensors in one file of an export, or of a process's part of a checkpoint, about."""


class Parallel(Settings):
    """What each of several processes holds. It changes students by rounding only, so no id holds it.

    How many processes there are is no setting: the launcher says it (docs/parallel.md).
    """

    shard: Literal["none", "fsdp2"] = Field(
        "none",
        description="fsdp2: the student's weights, gradients and optimiser state are shared among "
        "processes; none: each has all",
    )
    teacher: Literal["whole", "sharded"] = Field(
        "whole", description="sharded: the teacher's layers are shared among processes"
    )
    checkpoint_activations: bool = Field(
        False, description="compute the student's layers again in backward instead of keeping them"
    )
