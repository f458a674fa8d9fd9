"""Models whose weights are shared among processes (FSDP2), and how one of them becomes whole for a while.

The student's layers are units of their own; embedding, norm, head and the method's own modules belong to
the root, `StudentModule`, in whose forward the tiled losses run: there the head's weight is whole. A
frozen model's layers are shared, and the rest of it stays whole on every process, so that it is read as
any other. What decodes reads weights one by one, which only a whole copy has; it lasts as long as it
writes. Shards are in the precision that is trained; autocast rounds what was gathered.
"""

import gc
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from kdbench.trainers.batching import Layout, is_packable
from kdbench.trainers.engine import FILLER, LoadedModel, Writer
from kdbench.trainers.head.head import Head, head_of
from kdbench.trainers.micro_batch import MicroBatch, StudentModule
from kdbench.trainers.outline import Whole, replaced
from kdbench.trainers.parallel.loading import Unread, read_shares
from kdbench.trainers.parallel.recompute import casts_let_go, compute_again
from kdbench.trainers.parallel.tensors import copy_part
from kdbench.trainers.pruning import layers_of
from kdbench.trainers.teacher import TeacherSide
from kdbench.trainers.types import Packed


def share_student(module: StudentModule, device: torch.device) -> None:
    """Shares a student and its method's own modules among all processes, for training.

    Each layer goes to the device as it is cut. What no layer holds stays whole from a forward pass to
    its backward pass. A student without values gets room for its parts.
    """
    mesh = _mesh(device)
    _share_layers(module.student, mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    _make_room(module, device)
    module.in_step = True


def share_frozen(model: PreTrainedModel, device: torch.device) -> None:
    """Shares the layers of a model that is only read; the rest goes to the device whole.

    What runs the layers is their root, without weights of its own: so a layer is fetched while the one
    before it computes, and all have the same memory to be whole in.
    """
    mesh = _mesh(device)
    _share_layers(model, mesh)
    root = _runner(model)
    fully_shard(root, mesh=mesh, ignored_params=set(root.parameters()))
    _make_room(model, device)
    torch.nn.Module.to(model, device)


def _runner(model: PreTrainedModel) -> nn.Module:
    """The module whose forward runs the layers, whatever is called (OPT's head passes by its backbone)."""
    name = layers_of(model).prefix[:-1]
    while name:
        name = name.rpartition(".")[0]
        found = model.get_submodule(name)
        if type(found).forward is not nn.Module.forward:  # a container has none
            return found
    return model


def _share_layers(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    for layer in layers_of(
        model
    ).modules:  # said, for a layer with no shared module above it stays whole
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)


class Outlines(NamedTuple):
    """How a shared student and a shared teacher become whole; None for one that is not shared."""

    student: "Whole | None"
    teacher: "Whole | None"


def share(
    module: StudentModule | None,
    teacher: PreTrainedModel | None,
    unread: Seq[Unread],
    device: torch.device,
    *,
    again: bool,
) -> Outlines:
    """Shares models among all processes, and reads those that have no values yet; a collective.

    Args:
        module: the student with its losses; None: it is not shared.
        teacher: None: it is not shared.
        unread: which of the two have no values.
        device: of this process.
        again: the student's layers are computed again in backward.

    Raises:
        InputError: what was unread cannot be read, on all processes.
    """
    trained = None if module is None else Whole(module.student)
    frozen = None if teacher is None else Whole(teacher)
    if teacher is not None:
        share_frozen(teacher, device)
    if module is not None:
        if again:  # not in the outline, which nobody trains
            compute_again(module.student)
        share_student(module, device)
    read_shares(unread)
    return Outlines(trained, frozen)


def _make_room(module: nn.Module, device: torch.device) -> None:
    """Gives parameters on ``meta`` memory for what this process holds of them, without values."""

    def room(name: str, p: nn.Parameter) -> Tensor:
        if p.device.type != "meta":
            return p
        if not isinstance(p, DTensor):
            return torch.empty_like(p, device=device)
        part = torch.empty_like(p.to_local(), device=device)
        mesh, placements = p.device_mesh, p.placements
        return DTensor.from_local(
            part, mesh, placements, run_check=False, shape=p.shape, stride=p.stride()
        )

    with torch.no_grad():
        replaced(module, room)


def tried(module: StudentModule, device: torch.device, ids: int | None) -> None:
    """Has found out, in a forward pass, what is asked of the student's structure later.

    That is whether its head can be taken apart, and with ``ids`` known tokens whether rows can be packed.
    """
    rows = Layout(row=1, pad_id=0, packed=False, device=device)(FILLER)
    with torch.no_grad():
        passed(module, rows, lambda hidden_ND, head: ids and is_packable(module.student, ids))


def passed(module: StudentModule, packed: Packed, use: Callable[[Tensor, Head], Any]) -> Any:
    """What ``use`` makes of the student's hidden states and head, in a forward pass of its module."""

    def inside(micro: MicroBatch) -> Any:
        return use(micro.student_hidden_ND, micro.student_head)

    with casts_let_go():  # of layers that are whole one at a time, copies would stay
        found, _ = module(packed, inside)
    if isinstance(
        module, FSDPModule
    ):  # no backward pass will let go of what the forward pass gathered
        module.reshard()
    return found


@torch.no_grad()
def shared_copy(
    outline: Whole, kept: frozenset[str], vocab: int, weights: dict[str, Tensor] | None = None
) -> TeacherSide:
    """A copy of a shared student as its own teacher, shared as it is; see `frozen_copy`.

    It is shared while it is empty, so that no process has it whole. ``kept`` names weights that never
    change; the copy has them all the same.
    """
    gc.collect()  # a shared model that nobody holds any more is held by its own hooks
    model, known = outline.empty(), weights or {}
    names = [name for name, _ in model.named_parameters()]
    share_frozen(model, outline.part(names[0]).device)
    for name in names:
        copy_part(model.get_parameter(name), known[name] if name in known else outline.part(name))
    return TeacherSide(model, head_of(model, vocab), shared=kept)


def shared_engine(
    module: StudentModule, outline: Whole, local: LoadedModel, writer: Writer
) -> tuple[LoadedModel, Callable[..., TeacherSide]]:
    """How a shared student answers and scores, and how it is copied.

    Args:
        module: the student with its losses.
        outline: of the student.
        local: the student as it answers and scores whole.
        writer: what answers in its place; None: itself, whole.
    """
    writer = writer or partial(outline.lasting, local.sampling_dtype)
    engine = replace(local, writer=writer, inside=partial(passed, module), in_step=True)
    named = module.student.named_parameters(remove_duplicate=False)
    kept = frozenset(name for name, p in named if not p.requires_grad)
    return engine, partial(shared_copy, outline, kept, module.vocab)


_meshes: dict[str, DeviceMesh] = {}


def _mesh(device: torch.device) -> DeviceMesh:
    """All processes in a row."""
    if device.type not in _meshes:
        _meshes[device.type] = init_device_mesh(device.type, (dist.get_world_size(),))
    return _meshes[device.type]
