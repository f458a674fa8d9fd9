"""Sharded states on disk: every process writes what it holds, and reads what it needs.

`torch.distributed.checkpoint` plans who writes and reads which part of which tensor, so a state is read
by another number of processes than wrote it. Its files here are safetensors, whose headers say what part
they hold; no pickle is written or read. They are written beside the training, of a copy on the host.
"""

import functools
from collections.abc import Mapping
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from kdbench.trainers.parallel.ranks import PATIENCE
from kdbench.trainers.parallel.settings import FILE_BYTES

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
WEIGHTS, MOMENTS = "model.", "optimizer."


def held(module: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """This process's part of weights and optimiser state by name, and the numbers of that state.

    Of tied weights one name is kept; of a student with adapters not its base.
    """
    learnt = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    once = {name for name, _ in [*learnt, *module.named_buffers()]}
    weights = get_model_state_dict(module)
    found: dict[str, Any] = {
        WEIGHTS + name: value for name, value in weights.items() if name in once
    }
    if optimizer is not None:
        state: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=FLAT)
        found |= {MOMENTS + name: value for name, value in state.items()}
    return found


def numbers_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a state is no tensor, or a tensor of one number, as plain data."""
    return {
        name: value.item() if isinstance(value, Tensor) else value
        for name, value in state.items()
        if not isinstance(value, Tensor) or not value.ndim
    }


def write_shards(folder: Path, state: Mapping[str, Any]) -> "Future[Any]":
    """Copies the tensors of a state to the host and begins to write them; a collective.

    Args:
        folder: an empty one that all processes see.
        state: of `held`; it may change once this returns.

    Returns:
        What `wait` waits for.
    """
    tensors = _tensors(state)
    writer = HuggingFaceStorageWriter(
        str(folder), save_distributed=True, fqn_to_index_mapping=_files(tensors)
    )
    # all is on the host by then: the loader that overlaps copies would wake the first GPU in every process
    writer.per_thread_copy_ahead = 0
    begun = async_save(tensors, storage_writer=writer, process_group=beside())
    assert isinstance(begun, Future)  # the other kind comes of copies that are not made at once
    return begun


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Which file of each process a tensor goes to, from 1: while it is made a file is in memory twice."""
    most = FILE_BYTES * dist.get_world_size()
    ends = accumulate(t.numel() * t.dtype.itemsize for t in tensors.values())
    return {name: 1 + end // most for name, end in zip(tensors, ends, strict=True)}


def wait(written: "Future[Any]") -> None:
    """Returns when all processes have written.

    Raises:
        Exception: what the first of those that could not raised, in every process.
    """
    try:
        written.result()
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


@functools.cache
def beside() -> dist.ProcessGroup:
    """All processes once more: what they say of files does not mix with what they say of gradients."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def read_shards(
    folder: Path,
    numbers: Mapping[str, Any],
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """Puts a state into a module and its optimiser, whatever part of them this process holds.

    Args:
        folder: of `write_shards`.
        numbers: of `numbers_of`.
        module: whose weights they become; shared among processes or whole.
        optimizer: whose state they become; None: weights only.
    """
    state = held(module, optimizer)
    load(
        _tensors(state),
        storage_reader=HuggingFaceStorageReader(str(folder)),
        no_dist=not dist.is_initialized(),
    )
    for name, value in numbers.items():
        before = state[name]
        state[name] = torch.full_like(before, value) if isinstance(before, Tensor) else value
    options = StateDictOptions(strict=False, flatten_optimizer_state_dict=True)
    set_model_state_dict(module, _without(WEIGHTS, state), options=options)
    if optimizer is not None:
        set_optimizer_state_dict(module, optimizer, _without(MOMENTS, state), options=options)


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    return {n: value for n, value in state.items() if isinstance(value, Tensor) and value.ndim}


def _without(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
