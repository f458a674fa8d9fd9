"""Two optimiser steps of somebody's method on a tiny random pair, before anything is paid for it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import writing
from kdbench.trainers.method import Method
from kdbench.trainers.models import quiet
from kdbench.trainers.proof import tiny_loop, tiny_model

STATES = (PartialState, AcceleratorState, GradientState)


def rehearse(make: Callable[[], Method]) -> None:
    """Trains by a method, keeps and restores what it remembers; raises whatever it raises.

    The random numbers and accelerate's state of this process are as before.
    """
    with torch.random.fork_rng(devices=[]), _apart(), quiet(), _scratch() as folder:
        for steps in (1, 2):  # the second resumes from the first
            loop = tiny_loop(
                make(),
                student=tiny_model(1),
                teacher=tiny_model(2, width=48, layers=3),
                out=folder,
                steps=steps,
                save_every=1,
            )
            if not loop.method.window(loop.ctx, 0):
                raise InputError("window() returned no stream, so there is nothing to learn from")
            loop.run()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with writing("a temporary folder"):
        made = tempfile.TemporaryDirectory(prefix="kdbench-")
    with made as folder:
        yield Path(folder)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Accelerate keeps one state a process, and what is made here is on the CPU."""
    before = [dict(state._shared_state) for state in STATES]
    for state in STATES:
        state._shared_state.clear()
    try:
        yield
    finally:
        for state, values in zip(STATES, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(values)
