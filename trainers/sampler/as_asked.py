"""A model as decoding wants it: in another precision, in evaluation mode, with attention that takes masks."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

# Attention of transformers that honours a given (rows, 1, 1, columns) mask; flash kernels do not.
_MASKED_ATTENTION = {"eager", "sdpa"}


def cast_copy(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy whose parameters have another dtype; ties are kept, and so are buffers as they are.

    ``model.to(dtype)`` would round the rotary frequencies too, which turns positions into others.
    """
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, memo)


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and masked attention for a while; then all is put back as it was."""
    training = [module for module in model.modules() if module.training]
    config = model.config.get_text_config()
    attention = config._attn_implementation
    for module in training:
        module.training = False
    if attention not in _MASKED_ATTENTION:
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = attention
        for module in training:
            module.training = True
