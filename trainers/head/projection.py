"""From hidden states to raw logits, some rows at a time."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from kdbench.trainers.cpu.arithmetic import slow_in_half


class Parts(NamedTuple):
    """A head taken apart: ``weight`` (V', D) and ``bias`` (V',) or None, and transforms.

    A ``weight`` of None means that hidden states are logits (N, V') already.
    """

    weight: Tensor | None
    bias: Tensor | None
    scale: float
    softcap: float | None
    vocab: int


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Logits, values and losses are float32, or float64 if the hidden states are."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def matmul_dtypes(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Precision of the values that the head multiplies, and of the arithmetic.

    The first is autocast's if it is on, else that of the operands; the second is float32 where the
    hardware multiplies the first slower than that.
    """
    device = hidden_ND.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    else:
        dtype = torch.promote_types(hidden_ND.dtype, weight_VD.dtype)
    return dtype, torch.float32 if slow_in_half(device, dtype) else dtype


_frozen_casts = WeakIdKeyDictionary()
"""Frozen weight -> (where and which version it was, its cast): a teacher's head is cast once."""


def _frozen_cast(weight: Tensor, values: torch.dtype, arithmetic: torch.dtype) -> Tensor:
    seen = (weight.data_ptr(), weight._version, values, arithmetic)
    found: tuple[object, Tensor] | None = _frozen_casts.get(weight)
    if found is None or found[0] != seen:
        found = (seen, weight.to(values).to(arithmetic))
        _frozen_casts[weight] = found
    return found[1]


class Projector:
    """Hidden rows to logits before soft-capping.

    ``scale`` is folded into the hidden states, so that no pass over the vocabulary is spent on it.
    """

    @torch.no_grad()
    def __init__(self, hidden_ND: Tensor, parts: Parts, *, frozen: bool) -> None:
        self.parts, self.out_dtype = parts, sum_dtype(hidden_ND.dtype)
        self.bias_V: Tensor | None = None
        self.weight_VD: Tensor | None = None
        if parts.weight is None:
            self.hidden_ND = hidden_ND[:, : parts.vocab]
            return
        values, arithmetic = matmul_dtypes(hidden_ND, parts.weight)
        hidden_ND = hidden_ND if parts.scale == 1.0 else hidden_ND * parts.scale
        self.hidden_ND = hidden_ND.to(values).to(arithmetic)
        if frozen and parts.weight.dtype != arithmetic:
            weight_VD = _frozen_cast(parts.weight, values, arithmetic)
        else:
            weight_VD = parts.weight.detach().to(values).to(arithmetic)
        self.weight_VD = weight_VD[: parts.vocab]
        if parts.bias is not None:
            self.bias_V = parts.bias[: parts.vocab].to(self.out_dtype) * parts.scale

    def buffer(self, rows: int) -> Tensor:
        """Room for a tile of this projector's raw logits."""
        return self.hidden_ND.new_empty(rows, self.parts.vocab)

    def raw(self, span: slice, out: Tensor | None = None) -> Tensor:
        """Logits of some rows in the matmul's precision, bias not yet added."""
        if self.weight_VD is None:
            return self.hidden_ND[span].clone()
        with torch.autocast(self.hidden_ND.device.type, enabled=False):
            return torch.mm(self.hidden_ND[span], self.weight_VD.T, out=out)

    def logits(self, span: slice) -> Tensor:
        """Logits of some rows before soft-capping, in float32 or float64."""
        raw = self.raw(span).to(self.out_dtype)
        if self.weight_VD is not None and self.bias_V is not None:
            raw.add_(self.bias_V)
        return raw
