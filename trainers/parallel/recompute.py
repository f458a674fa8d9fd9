"""Activation checkpointing: layers keep their inputs and are computed again in backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from kdbench.trainers.by_sequence import as_before
from kdbench.trainers.pruning import layers_of


def compute_again(model: PreTrainedModel) -> None:
    """Has the layers of a model computed again in backward.

    It is in a layer's ``forward``, inside of what gathers a shared layer's weights and outside of all
    that the layer does; the method of transformers follows train mode, which here says only whether
    there is dropout.
    """
    for layer in layers_of(model).modules:
        layer.forward = MethodType(_forward, layer)


@contextmanager
def casts_let_go() -> Iterator[None]:
    """Inside, what autocast rounds of a weight lives as long as it is used.

    Otherwise autocast keeps it for a second use until its outermost context ends, which is after the head:
    a half-precision copy of every layer, whatever becomes of the weight itself.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    plain = MethodType(type(self).forward, self)
    with casts_let_go():  # checkpoint notes it, and recomputes alike
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        return checkpoint(plain, *args, use_reentrant=False, context_fn=as_before, **kwargs)
