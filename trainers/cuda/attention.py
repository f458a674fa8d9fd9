"""Attention for packed rows by torch's variable-length kernel: no (tokens, tokens) mask, no work thrown away.

The kernel takes half precision only and is there on recent versions of torch; elsewhere, and under
gradient checkpointing (whose second forward runs outside), transformers derives a dense mask from the
position ids, which every layer reads: (rows, 1, tokens, tokens).
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from kdbench.trainers.types import Packed

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    varlen = None  # type: ignore[assignment]

_ATTENTION = "kdbench_varlen"
_KINDS = {"full_attention", "sliding_attention"}
_DROPOUTS = ("attention_dropout", "attn_pdrop")
"""What configurations call dropout inside attention, which the kernel has not."""
_LARGEST = 256
"""Units of a head that flash attention takes."""


class Spans(NamedTuple):
    """Where sequences begin in the flat rows: (sequences + 1,) int32, with the end; and the longest."""

    edges: Tensor
    longest: int


_spans: ContextVar[Spans | None] = ContextVar("spans", default=None)
"""Of the forward pass under way."""


def serves(model: PreTrainedModel, packed: Packed, dtype: torch.dtype) -> bool:
    """Whether the kernel computes this model's attention on these rows."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    size = (
        getattr(config, "head_dim", None) or getattr(config, "hidden_size", _LARGEST + 1) // heads
    )
    return (
        varlen is not None
        and "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters
        and dtype.itemsize == 2
        and size <= _LARGEST
        and packed.attention_mask_RT is None
        and bool(packed.lengths)
        and config._attn_implementation == "sdpa"
        and set(getattr(config, "layer_types", None) or ()) <= _KINDS
        and not (model.training and any(getattr(config, name, 0.0) for name in _DROPOUTS))
        and not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    )


@contextmanager
def packed_attention(model: PreTrainedModel, packed: Packed) -> Iterator[None]:
    """Run the model's attention by the kernel inside, where that serves."""
    dtype = next(model.parameters()).dtype
    device = packed.position_ids_RT.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    if not serves(model, packed, dtype):
        yield
        return
    AttentionInterface.register(_ATTENTION, attend)
    AttentionMaskInterface.register(_ATTENTION, _no_mask)
    config = model.config.get_text_config()
    token = _spans.set(spans_of(packed.lengths, device))
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
        _spans.reset(token)


def spans_of(lengths: tuple[int, ...], device: torch.device) -> Spans:
    """Sequences of these lengths, back to back."""
    edges = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return Spans(edges.to(device, non_blocking=True), max(lengths))


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention in transformers' calling convention: (R, heads, T, d) in, (R, T, heads, d) out."""
    spans = _spans.get()
    others = [
        name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None
    ]
    if spans is None or attention_mask is not None or dropout or others:
        raise NotImplementedError(
            "variable-length attention serves packed rows without dropout only"
        )
    rows, heads, width, _ = query.shape
    device, dtype = query.device.type, query.dtype
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
    q, k, v = (x.transpose(1, 2).flatten(0, 1).to(half) for x in (query, key, value))
    window = -1 if sliding_window is None else sliding_window - 1
    mixed = varlen.varlen_attn(
        q,
        k,
        v,
        spans.edges,
        spans.edges,
        spans.longest,
        spans.longest,
        scale=scaling,
        window_size=(window, 0),
        enable_gqa=heads != key.shape[1],
    )
    assert isinstance(mixed, Tensor)  # nothing beside was asked for
    return mixed.unflatten(0, (rows, width)), None


def _no_mask(*args: object, **kwargs: object) -> None:
    return None
