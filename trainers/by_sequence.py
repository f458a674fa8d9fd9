"""Attention by sequence: what was packed into one row must not see each other.

The mask that transformers derives from position ids makes every kernel work on the whole row and throw
most of it away: (rows, 1, tokens, tokens), read in every layer. Around a forward pass, its registry has
another attention here: each sequence attends causally to itself, and nothing else is computed. A CPU cuts
the rows (`kdbench.trainers.cpu`), a GPU has a kernel (`kdbench.trainers.cuda.attention`); the first is
never entered on another device. Where neither serves, the mask does the same.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
)

from kdbench.trainers import cpu
from kdbench.trainers.cuda import attention as kernel
from kdbench.trainers.types import Packed

_NAME = "kdbench_by_sequence"
_KINDS = {"full_attention", "sliding_attention"}
"""Of layers whose mask follows from what they are given."""
_OTHERS = ("softcap", "s_aux", "position_bias")
"""What layers may ask of attention that ours has not."""


class _Way(NamedTuple):
    """How a forward pass runs.

    Attributes:
        config: the model's, of its text.
        attend: from flat queries, keys and values (R*T, heads, d) to what they mix; None: as usual.
        products: entered around it.
    """

    config: PretrainedConfig
    attend: Callable[..., Tensor] | None
    products: Callable[[], AbstractContextManager[None]]


_way: ContextVar[_Way | None] = ContextVar("way", default=None)
"""Of the forward pass under way."""


_masked: ContextVar[bool] = ContextVar("masked", default=False)


@contextmanager
def by_mask() -> Iterator[None]:
    """Inside, packed rows are kept apart by transformers' mask, as where no kernel serves."""
    token = _masked.set(True)
    try:
        yield
    finally:
        _masked.reset(token)


def forward(model: PreTrainedModel, packed: Packed) -> AbstractContextManager[None]:
    """Run a model's forward on these rows inside, as its device does it best.

    Attention is by sequence where that is possible, and a CPU multiplies in the faster precision. With
    the gradient checkpointing of transformers, whose second forward runs outside, the mask is used.
    """
    here = _kind(model) == "cpu"
    attend = _attend_of(model, packed) if _possible(model, packed) else None
    products = cpu.fast_products if here else nullcontext
    return _on(_Way(model.config.get_text_config(), attend, products))


def as_before() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For layers that are computed again in backward, outside `forward`: nothing now, and then what is
    around them now.
    """
    way = _way.get()
    return nullcontext(), nullcontext() if way is None else _on(way)


def _kind(model: PreTrainedModel) -> str:
    return next(model.parameters()).device.type


def _possible(model: PreTrainedModel, packed: Packed) -> bool:
    """Whether these are packed rows, and the attention of this model can be another."""
    there = packed.attention_mask_RT is None and bool(packed.lengths) and not _masked.get()
    return there and may_go_by_sequence(model)


def may_go_by_sequence(model: PreTrainedModel) -> bool:
    """Whether the attention of this model can be another on packed rows."""
    config = model.config.get_text_config()
    return (
        config._attn_implementation == "sdpa"
        and set(getattr(config, "layer_types", None) or ()) <= _KINDS
        and not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    )


def _attend_of(model: PreTrainedModel, packed: Packed) -> Callable[..., Tensor] | None:
    """What its device has for these rows."""
    device, kind = next(model.parameters()).device, _kind(model)  # the rows go there
    if kind == "cpu":
        return partial(cpu.attend, plan=cpu.plan_of(packed.lengths))
    if kind == "cuda" and kernel.serves(model, device):
        return partial(kernel.attend, spans=kernel.spans_of(packed.lengths, device))
    return None


@contextmanager
def _on(way: _Way) -> Iterator[None]:
    token = _way.set(way)
    if way.attend is not None:
        AttentionInterface.register(_NAME, _attention)
        AttentionMaskInterface.register(_NAME, _no_mask)
        way.config._attn_implementation = _NAME
    try:
        with way.products():
            yield
    finally:
        if way.attend is not None:
            way.config._attn_implementation = "sdpa"
        _way.reset(token)


def _attention(
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
    way = _way.get()
    others = any(kwargs.get(name) is not None for name in _OTHERS)
    if way is None or way.attend is None or attention_mask is not None or others:
        raise NotImplementedError("attention by sequence serves packed rows only")
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    mixed_PHd = way.attend(*flat, dropout=dropout, scale=scaling, window=sliding_window)
    return mixed_PHd.unflatten(0, (query.shape[0], query.shape[2])), None


def _no_mask(*args: object, **kwargs: object) -> None:
    return None
