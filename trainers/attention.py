"""Attention for packed rows: each sequence attends causally to itself, nothing else is computed.

The mask that transformers derives from position ids makes every kernel work on the whole row and
throw most of it away; here the row is cut into its sequences instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from kdbench.trainers.arithmetic import slow_in_half
from kdbench.trainers.types import Packed

_NAME = "kdbench_packed"

_segments: ContextVar[list[list[int]] | None] = ContextVar("segments", default=None)
"""Lengths of the sequences in each row of the forward pass under way."""


@contextmanager
def packed_attention(model: PreTrainedModel, packed: Packed) -> Iterator[None]:
    """Run the model's attention sequence by sequence inside; a no-op where that is not possible.

    Only for packed rows on CPUs and for models that use torch's scaled dot product attention; with
    gradient checkpointing, whose second forward runs outside, the mask of transformers is used.
    """
    config = model.config.get_text_config()
    usable = (
        packed.attention_mask_RT is None
        and packed.input_ids_RT.numel() > 0
        and next(model.parameters()).device.type == "cpu"
        and config._attn_implementation == "sdpa"
        and not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    )
    if not usable:
        yield
        return
    token = _segments.set(_row_segments(packed.position_ids_RT))
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
        _segments.reset(token)


def _row_segments(position_ids_RT: Tensor) -> list[list[int]]:
    width = position_ids_RT.shape[1]
    rows = []
    for row_T in position_ids_RT:
        starts = (row_T == 0).nonzero()[:, 0].tolist()
        rows.append([b - a for a, b in zip(starts, [*starts[1:], width], strict=True)])
    return rows


def _attend(
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
    rows = _segments.get()
    if rows is None or attention_mask is not None or kwargs.get("softcap") is not None:
        raise NotImplementedError("packed attention serves packed rows only")
    grouped = query.shape[1] != key.shape[1]
    dtype = query.dtype
    if slow_in_half(query.device, dtype):
        query, key, value = query.float(), key.float(), value.float()
    out = []
    for r, lengths in enumerate(rows):
        triples = zip(
            *(x[r : r + 1].split(lengths, dim=2) for x in (query, key, value)), strict=True
        )
        parts = []
        for q, k, v in triples:
            mask = _window(q.shape[2], sliding_window)
            attended = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                scale=scaling,
                is_causal=mask is None,
                enable_gqa=grouped,
            )
            parts.append(attended.transpose(1, 2))
        out.append(torch.cat(parts, dim=1))
    return (torch.cat(out) if len(out) > 1 else out[0]).to(dtype), None


def _window(length: int, sliding_window: int | None) -> Tensor | None:
    if sliding_window is None or length <= sliding_window:
        return None
    return torch.ones(length, length, dtype=torch.bool).tril().triu(1 - sliding_window)


def _no_mask(*args: object, **kwargs: object) -> None:
    return None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _no_mask)
