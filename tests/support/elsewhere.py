"""A device that is not the CPU, on a machine that has no other: tensors that say ``elsewhere:0``.

A `Far` tensor keeps its numbers in a CPU tensor and shows another device. What is called of it runs on the
CPU, with the checks that a GPU makes: all operands on one device (numbers of no dimension may lie on the
CPU), no host memory read where it lies. So whatever a training or a decoder would mix, `torch` refuses
here with the sentence that it has for it, and whatever runs gives the numbers of the CPU.

What it cannot show: kernels of CUDA, their rounding, streams, memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ranks
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from kdbench.trainers import proof

NAME = "elsewhere"
_HERE = torch.device("cpu")
_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
"""What reads one device and writes another."""
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
_INDEXED |= {_aten._index_put_impl_.default}
"""Indices may lie on the CPU."""


class Far(Tensor):
    """A tensor of another device."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        made = Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
            requires_grad=near.requires_grad,
        )
        made.near = near
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Far({self.near!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            "can't convert elsewhere:0 device type tensor to numpy. Use Tensor.cpu() first"
        )

    def tolist(self) -> Any:
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Elsewhere(TorchDispatchMode):
    """Makes what is asked for on the other device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    far = any(isinstance(x, Far) for x in tensors)
    asked = kwargs.get("device")
    if far and func not in _MOVES:
        _check(func, args, tensors)
    if asked is not None:
        kwargs = kwargs | {"device": _HERE}
        if kwargs.get("pin_memory"):
            kwargs = kwargs | {"pin_memory": False}
    beyond = torch.device(asked).type == NAME if asked is not None else far
    if func is _aten.copy_.default:
        beyond = isinstance(args[0], Far)
    given = {id(x.near): x for x in tensors if isinstance(x, Far)}
    out = func(*_inner(args), **_inner(kwargs))

    def dressed(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, Far):
            return x
        if id(x) in given:  # written in place
            return given[id(x)]
        if any(x is t for t in tensors):
            return x
        return Far(x) if beyond else x

    return tree_map(dressed, out)


def _inner(tree: Any) -> Any:
    return tree_map(lambda x: x.near if isinstance(x, Far) else x, tree)


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raises what CUDA raises where operands lie on several devices."""
    if func in _INDEXED:
        tensors = [args[0], *args[2:3]] if func is not _aten.index.Tensor else [args[0]]
        tensors = [x for x in tensors if isinstance(x, Tensor)]
    here = [x for x in tensors if not isinstance(x, Far) and (x.ndim or _writes(func, x, args))]
    if here and any(isinstance(x, Far) for x in tensors):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"elsewhere:0 and cpu! ({func}, shapes {[tuple(x.shape) for x in tensors]})"
        )


def _writes(func: Any, x: Tensor, args: Any) -> bool:
    """Whether a CPU number would be written in place."""
    return func.__name__.split(".")[0].endswith("_") and bool(args) and args[0] is x


class _Backend(_DummyBackendModule):
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_initialized(self) -> bool:
        return True

    def is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


def register() -> None:
    """Makes the device known to this process, which goes on knowing it."""
    _setup_privateuseone_for_python_backend(NAME, _Backend())


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Inside, ``elsewhere:0`` is a device. `register` must have come before the first backward pass."""
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # torch.tensor(…, device=) moves where the mode sees it
    try:
        with _Elsewhere():
            yield torch.device(NAME, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def accelerator() -> Accelerator:
    """One that puts everything there."""
    made = Accelerator(cpu=True)
    made.state.device = torch.device(NAME, 0)
    return made


def refuses() -> None:
    """Raises AssertionError unless the device takes and refuses what a GPU does."""
    register()
    with elsewhere() as device:
        x = torch.ones(3, device=device)
        assert (x + torch.tensor(1.0)).device == x.device and (x * 2).tolist() == [2, 2, 2]
        assert x[torch.tensor([0, 2])].cpu().device.type == "cpu"
        mixed = [lambda: x + torch.ones(3), lambda: torch.ones(3).add_(x), x.numpy]
        for each in mixed:
            with pytest.raises((RuntimeError, TypeError)):
                each()


def trained(out: Path, steps: int, names: list[str]) -> None:
    """Trains methods of `ranks` there, in float64, into ``out``; after `register`."""
    ranks.STEPS = steps
    # as on a real device, a module that moves keeps its parameters, and so what is tied
    torch.__future__.set_swap_module_params_on_conversion(True)
    plain = sdpa_kernel(SDPBackend.MATH)  # the other ways to attend know real devices only
    there = mock.patch.object(proof, "Accelerator", lambda cpu: accelerator())
    with elsewhere(), there, plain:
        for name in names:
            (out / name).mkdir(parents=True)
            loop = ranks.build(name, out / name, {}, "llama", True)
            assert {p.device.type for p in loop.module.parameters()} == {NAME}
            loop.run()
