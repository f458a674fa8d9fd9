"""What only a CPU needs. Callers look at the device first, so a GPU never enters here.

**Products.** AVX512-BF16 without matrix units (AMX) reaches half the rate of float32 (measured: 76
against 142 GFLOP/s a core, and a third of it in attention's backward). There, what autocast has
rounded to bfloat16 is multiplied in float32: the same storage, the same products up to the order of
summation, half the time. Weights are rounded, too: the steps of a small learning rate are below the
resolution of bfloat16, so a forward that saw them would train differently from autocast elsewhere.
In decoding, where every step multiplies by the same weights, oneDNN lays them out once.

**Attention by sequence** (`kdbench.trainers.by_sequence`). Rows are cut into their sequences. Short
ones of like length go through one call together, since on tiny models the calls themselves are the cost.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_BOUNDS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # oneDNN's own variables
# Below so many weights a plain product costs as little as a laid-out one.
_LAY_OUT_FROM = 1 << 16
_ROWS = 8  # rows of the products that weights are laid out for
_BLOCK_ELEMENTS = 1 << 20  # of a product that is added up block by block
_WIDE_UP_TO = 256  # tokens up to which attention with gradients is faster in float32, with AMX, too
SHORT = 128  # tokens; above it attention itself outweighs the cost of one more call


# -- products


def slow_in_half(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies ``dtype`` slower than float32."""
    return dtype.itemsize == 2 and not has_matrix_units()


def has_matrix_units() -> bool:
    """Whether oneDNN multiplies by AMX here: the CPU has it, and nobody keeps oneDNN from it."""
    bound = next((os.environ[name] for name in _BOUNDS if os.environ.get(name)), "ALL").upper()
    return torch.cpu._is_amx_tile_supported() and (bound in ("ALL", "DEFAULT") or "AMX" in bound)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in the precision of ``dtype``, held in float32."""
    return values.to(dtype).float()


@contextmanager
def fast_products() -> Iterator[None]:
    """Linear layers inside multiply the fast way if autocast is on and asks for the slow one."""
    slow = torch.is_autocast_enabled("cpu") and slow_in_half(torch.get_autocast_dtype("cpu"))
    with _WideProducts() if slow else nullcontext():
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
        half = x.to(torch.get_autocast_dtype("cpu"))
        ctx.save_for_backward(half, weight)
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
        with torch.autocast("cpu", enabled=False):
            wide = None if bias is None else bias.float()
            product = functional.linear(half.float(), rounded(weight, half.dtype), wide)
        return product.to(half.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        half, weight = ctx.saved_tensors
        grad = grad.float().flatten(0, -2)
        grad_x = grad_weight = grad_bias = None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                grad_x = (grad @ rounded(weight, half.dtype)).to(ctx.x_dtype).view(half.shape)
            if ctx.needs_input_grad[1]:
                grad_weight = (grad.T @ half.flatten(0, -2).float()).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = grad.sum(0).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias


def add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total`` += ``left`` @ ``right``, which are of a narrower dtype, in blocks that stay in the cache.

    Whole, the product of a vocabulary's gradient is 57 MB of fresh memory that is read once (measured at
    49,152 x 576: 123 ms a tile of 256 rows, 49 in blocks).
    """
    elements = max(1, total.shape[1])
    rows = max(1, _BLOCK_ELEMENTS // elements)
    block = left.new_empty(min(rows, len(total)), elements)
    for begin in range(0, len(total), rows):
        part = total[begin : begin + rows]
        part.add_(torch.mm(left[begin : begin + rows], right, out=block[: len(part)]))


class LaidOutProduct:
    """``x @ weight.T + bias`` with the weight (out, in) laid out once for oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """The product, (rows, out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` + the product; neither is changed."""
        return torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, self._weight, self._bias, "add"
        )


def worth_laying_out(weight: Tensor) -> bool:
    """Whether ``LaidOutProduct`` can multiply by this weight, and faster than a plain product."""
    if weight.numel() < _LAY_OUT_FROM or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


# -- attention by sequence


class Group(NamedTuple):
    """Sequences attended to in one call: a slice of the flat rows, or a padded batch of short ones.

    ``gather_P`` indexes the flat (R*T) positions, (members * length,); None means the slice of
    ``length`` positions from ``start``.
    """

    members: int
    length: int
    start: int
    gather_P: Tensor | None


class Plan(NamedTuple):
    """How flat positions are grouped; ``back_P`` finds each of them in the groups' joined outputs."""

    groups: list[Group]
    back_P: Tensor


def plan_of(lengths: Sequence[int]) -> Plan:
    """Groups sequences that lie back to back: alike short ones together, every long one alone."""
    ends = list(accumulate(lengths))
    spans = [(end - length, length) for end, length in zip(ends, lengths, strict=True)]
    batches: list[list[tuple[int, int]]] = [[]]
    for span in sorted(spans, key=lambda s: (s[1], s[0])):
        batch = batches[-1]
        # a batch is padded to its longest, so it stops where that would double the shortest
        if batch and (span[1] > SHORT or span[1] > 2 * batch[0][1] + 8):
            batches.append([])
        batches[-1].append(span)
    groups = [_group(batch) for batch in batches]
    back_P = torch.empty(ends[-1], dtype=torch.long)
    place = 0
    for batch, group in zip(batches, groups, strict=True):
        for start, length in batch:
            back_P[start : start + length] = torch.arange(place, place + length)
            place += group.length
    return Plan(groups, back_P)


def _group(batch: list[tuple[int, int]]) -> Group:
    (start, longest) = batch[-1]
    if len(batch) == 1:
        return Group(1, longest, start, None)
    # padding repeats a sequence's last token; it comes after all others, so none attends to it
    offsets = torch.arange(longest)
    rows = [start + offsets.clamp(max=length - 1) for start, length in batch]
    return Group(len(batch), longest, 0, torch.cat(rows))


def attend(
    query_PHd: Tensor,
    key_PHd: Tensor,
    value_PHd: Tensor,
    *,
    plan: Plan,
    dropout: float,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """What each sequence of the flat rows mixes of itself, (R*T, heads, d)."""
    dtype = query_PHd.dtype
    if torch.is_autocast_enabled("cpu") and dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
    flat = [x.to(dtype) for x in (query_PHd, key_PHd, value_PHd)]
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in flat)
    wide_up_to = _WIDE_UP_TO if learning and dtype.itemsize == 2 else 0
    slow = slow_in_half(dtype)
    out = []
    for group in plan.groups:
        mask = _window(group.length, window)
        q, k, v = (_members(x, group) for x in flat)
        if slow or group.length <= wide_up_to:
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast("cpu", enabled=False):  # it would round to bfloat16 again
            attended = functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                scale=scale,
                is_causal=mask is None,
                enable_gqa=query_PHd.shape[1] != key_PHd.shape[1],
            )
        out.append(attended.transpose(1, 2).flatten(0, 1).to(dtype))
    joined = out[0] if len(out) == 1 else torch.cat(out)
    return joined.index_select(0, plan.back_P)


def _members(flat_PHd: Tensor, group: Group) -> Tensor:
    """A group's sequences as (members, heads, length, d)."""
    if group.gather_P is None:
        return flat_PHd[None, group.start : group.start + group.length].transpose(1, 2)
    picked = flat_PHd.index_select(0, group.gather_P)
    return picked.unflatten(0, (group.members, group.length)).transpose(1, 2)


def _window(length: int, window: int | None) -> Tensor | None:
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
