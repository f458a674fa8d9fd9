"""Matrix products of autocast on CPUs that multiply bfloat16 slower than float32.

AVX512-BF16 without matrix units (AMX) reaches half the rate of float32 (measured: 76 against 142
GFLOP/s a core, and a third of it in attention's backward). There, what autocast has rounded to
bfloat16 is multiplied in float32: the same storage, the same products up to the order of summation,
half the time. Weights are rounded, too: the steps of a small learning rate are below the resolution
of bfloat16, so a forward that saw them would train differently from autocast elsewhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def slow_in_half(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device multiplies ``dtype`` slower than float32."""
    return device.type == "cpu" and dtype.itemsize == 2 and not torch.cpu._is_amx_tile_supported()


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in the precision of ``dtype``, held in float32."""
    return values.to(dtype).float()


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Linear layers inside multiply the fast way if autocast is on and asks for the slow one."""
    if torch.is_autocast_enabled(device.type) and slow_in_half(
        device, torch.get_autocast_dtype(device.type)
    ):
        with _WideProducts():
            yield
    else:
        yield


class _WideProducts(TorchFunctionMode):
    """Replaces ``linear``, and ``addmm`` as GPT-2 calls it, for floating-point tensors."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear and not kwargs:
            return _WideLinear.apply(*args, *[None] * (3 - len(args)))
        if func is torch.addmm and not kwargs and len(args) == 3 and args[0].ndim == 1:
            bias, x, weight = args
            return _WideLinear.apply(x, weight.T, bias)
        return func(*args, **(kwargs or {}))


class _WideLinear(torch.autograd.Function):
    """``linear`` with autocast's dtypes outside and float32 products inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        device = x.device.type
        half = x.to(torch.get_autocast_dtype(device))
        ctx.save_for_backward(half, weight)
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
        with torch.autocast(device, enabled=False):
            wide = None if bias is None else bias.float()
            product = functional.linear(half.float(), rounded(weight, half.dtype), wide)
        return product.to(half.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        half, weight = ctx.saved_tensors
        grad = grad.float().flatten(0, -2)
        grad_x = grad_weight = grad_bias = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_x = (grad @ rounded(weight, half.dtype)).to(ctx.x_dtype).view(half.shape)
            if ctx.needs_input_grad[1]:
                grad_weight = (grad.T @ half.flatten(0, -2).float()).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = grad.sum(0).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias
