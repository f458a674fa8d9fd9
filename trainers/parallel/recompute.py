"""Activation checkpointing: layers keep their inputs and are computed again in backward."""

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


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    plain = MethodType(type(self).forward, self)
    if not torch.is_grad_enabled():
        return plain(*args, **kwargs)
    return checkpoint(plain, *args, use_reentrant=False, context_fn=as_before, **kwargs)
