"""Attention by sequence (`kdbench.trainers.by_sequence`) by torch's variable-length kernel.

It takes half precision only and is there on recent versions of torch.
"""

import inspect
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    varlen = None  # type: ignore[assignment]

_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""What configurations call dropout inside attention, which the kernel has not."""
_LARGEST = 256
"""Units of a head that flash attention takes."""


class Spans(NamedTuple):
    """Where sequences begin in the flat rows: (sequences + 1,) int32, with the end; and the longest."""

    edges: Tensor
    longest: int


def serves(model: PreTrainedModel, device: torch.device) -> bool:
    """Whether the kernel computes this model's attention, on rows of this device."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    size = (
        getattr(config, "head_dim", None) or getattr(config, "hidden_size", _LARGEST + 1) // heads
    )
    return (
        varlen is not None
        and "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters
        and _arithmetic(device.type, next(model.parameters()).dtype).itemsize == 2
        and size <= _LARGEST
        and not (model.training and any(getattr(config, name, 0.0) for name in _DROPOUTS))
    )


def _arithmetic(device: str, dtype: torch.dtype) -> torch.dtype:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype


def spans_of(lengths: tuple[int, ...], device: torch.device) -> Spans:
    """Sequences of these lengths, back to back."""
    edges = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return Spans(edges.to(device, non_blocking=True), max(lengths))


def attend(
    query_PHd: Tensor,
    key_PHd: Tensor,
    value_PHd: Tensor,
    *,
    spans: Spans,
    dropout: float,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """What each sequence of the flat rows mixes of itself, (R*T, heads, d)."""
    if dropout:
        raise NotImplementedError("the kernel for variable lengths has no dropout")
    half = _arithmetic(query_PHd.device.type, query_PHd.dtype)
    mixed = varlen.varlen_attn(
        query_PHd.to(half),
        key_PHd.to(half),
        value_PHd.to(half),
        spans.edges,
        spans.edges,
        spans.longest,
        spans.longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_PHd.shape[1] != key_PHd.shape[1],
    )
    assert isinstance(mixed, Tensor)  # nothing beside was asked for
    return mixed
