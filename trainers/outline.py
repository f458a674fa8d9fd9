"""A model's structure without values, which is filled for as long as a whole model is needed.

What decodes, and what copies a model, reads weights one by one as an ordinary model has them. A model that
is shared among processes, has adapters or layers in four bits holds others.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdbench.trainers.parallel.tensors import whole


class Whole:
    """Makes a model whole for a while.

    Args:
        model: as it is loaded; of that only its structure is kept.
        part: a weight by its name, of a shared model what this process holds of it; None: of the model.

    Attributes:
        part: a weight by its name as it is now, of a shared model what this process holds of it.
        outline: its structure; what is found out about it is found out once.
    """

    def __init__(self, model: PreTrainedModel, part: Callable[[str], Tensor] | None = None) -> None:
        self.part = part or model.get_parameter
        self.outline = outline(model)
        self._dtypes = {name: p.dtype for name, p in self.outline.named_parameters()}

    @contextmanager
    def lasting(self, dtype: torch.dtype | None) -> Iterator[PreTrainedModel]:
        """The model as it is now, frozen, on this process; of a shared one a collective.

        What it holds as it is needed is not copied.

        Args:
            dtype: of its weights; None: as they are.
        """
        self._fill(self.outline, dtype)
        try:
            yield self.outline
        finally:
            replaced(self.outline, self._emptied)

    def frozen(self) -> PreTrainedModel:
        """A whole model that stays, with today's weights."""
        made = self.empty()
        self._fill(made, None)
        return made

    def empty(self) -> PreTrainedModel:
        """A frozen model without values."""
        return copy.deepcopy(self.outline)

    def _emptied(self, name: str, p: nn.Parameter) -> Tensor:
        """In its own precision again, which copies have."""
        return torch.empty_like(p, dtype=self._dtypes[name], device="meta")

    @torch.no_grad()
    def _fill(self, empty: PreTrainedModel, dtype: torch.dtype | None) -> None:
        def value(name: str, p: nn.Parameter) -> Tensor:
            return whole(self.part(name)).detach().to(dtype or p.dtype)

        replaced(empty, value)
        device = next(empty.parameters()).device  # where the model has gone since
        for module in empty.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = buffer if buffer is None else buffer.to(device)


def outline(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in eval mode and frozen, with its buffers but without the values of its weights."""
    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo).eval()


def replaced(model: nn.Module, value: Callable[[str, nn.Parameter], Tensor]) -> None:
    """Puts other parameters where a model has its own; ties are kept."""
    made = {
        id(p): (p, nn.Parameter(value(name, p), requires_grad=p.requires_grad))
        for name, p in list(model.named_parameters())
    }
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = made[id(parameter)][1]
