"""From a model to logits: hidden states at target positions, and the head that they go through."""

import warnings
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from kdbench.harness.errors import InputError, is_out_of_memory
from kdbench.trainers import by_sequence, cpu
from kdbench.trainers.lora.merging import weight_of
from kdbench.trainers.parallel.ranks import of_first
from kdbench.trainers.parallel.tensors import is_shared
from kdbench.trainers.types import Packed

SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""The bound of logits in configurations: Gemma, RecurrentGemma, xLSTM. Small logits do not show it."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """How hidden states become logits: ``softcap * tanh(scale * (h W' + b) / softcap)``.

    Args:
        weight: (V', D); None if the "hidden" states are logits already (the dense path).
        bias: (V',) or None.
        scale: multiplies the logits.
        softcap: bound of the logits, or None.
        vocab: number of real tokens; columns from here on are padding and never take part.
        known: of a teacher of which only so many likeliest tokens are known: its "hidden" states are what
            `kdbench.trainers.head.partial` makes of it.
    """

    weight: Tensor | None
    bias: Tensor | None
    scale: float
    softcap: float | None
    vocab: int
    known: int = 0

    @property
    def dense(self) -> bool:
        """Whether this head could not be taken apart from its model."""
        return self.weight is None

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, vocab) of the real tokens, differentiable; for small N."""
        if self.weight is None:
            return hidden_ND[:, : self.vocab]
        bias = None if self.bias is None else self.bias[: self.vocab]
        logits_NV = functional.linear(hidden_ND, self.weight[: self.vocab], bias) * self.scale
        return self.capped(logits_NV)

    def capped(self, logits_NV: Tensor) -> Tensor:
        """Scaled logits, soft-capped if the model does that."""
        if self.softcap is None:
            return logits_NV
        return self.softcap * torch.tanh(logits_NV / self.softcap)


_takes_apart: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Whether a model's logits are its head applied to its hidden states; probed once a model."""
_said: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Models whose dense path was warned of."""


def head_of(model: PreTrainedModel, vocab: int) -> Head:
    """The head of a causal language model; cheap after the first call, which runs a probe.

    Args:
        model: any causal language model of transformers.
        vocab: number of real tokens (the tokenizer's), at most the width of the head.

    Returns:
        A head whose logits equal the model's. If the model transforms its logits in a way we cannot
        express, a dense head (with a warning): ``backbone_hidden`` then runs the whole model.

    Raises:
        ValueError: the head is narrower than ``vocab``.
    """
    head = _whole_head(model, vocab)
    if takes_apart(model):
        return head
    if model not in _said:
        _said[model] = True
        warnings.warn(
            f"the logits of {type(model).__name__} are not its head applied to its hidden states: "
            "falling back to the dense path, which needs more memory",
            stacklevel=2,
        )
    return Head(None, None, 1.0, None, vocab)


def takes_apart(model: PreTrainedModel) -> bool:
    """Whether a model's logits are its head applied to its hidden states; cheap after the first call.

    Of a shared model a collective.
    """
    if model not in _takes_apart:
        weight: Tensor = model.get_output_embeddings().weight
        if weight.device.type == "meta":  # nothing can be compared
            return True
        found = _agrees(model, _whole_head(model, weight.shape[0]), weight)
        _takes_apart[model] = of_first(found) if is_shared(model) else found
    return _takes_apart[model]


def refuse_dense(title: str, *models: PreTrainedModel) -> None:
    """Raises InputError if a method that projects hidden states would be given logits in their place.

    ``title`` is the method's.
    """
    for model in models:
        if not takes_apart(model):
            raise InputError(
                f"{title} compares hidden states, but between those of {type(model).__name__} "
                "and its logits lies more than a head, so they are not used here; choose a method "
                "that compares logits, or another model"
            )


def _whole_head(model: PreTrainedModel, vocab: int) -> Head:
    """The head as its configuration describes it."""
    embedding = model.get_output_embeddings()
    text = model.config.get_text_config()
    scale = float(getattr(text, "logit_scale", None) or 1.0)  # Cohere multiplies,
    scale /= float(getattr(text, "logits_scaling", None) or 1.0)  # Granite divides.
    named = (getattr(text, name, None) for name in SOFTCAPS)
    softcap = next((bound for bound in named if bound is not None), None)
    weight = weight_of(embedding)
    if weight.shape[0] < vocab:
        raise ValueError(f"the head has {weight.shape[0]} columns for {vocab} tokens")
    return Head(weight, getattr(embedding, "bias", None), scale, softcap, vocab)


def backbone_of(model: PreTrainedModel) -> torch.nn.Module:
    """What turns ids into the hidden states that the head reads."""
    body = model.base_model
    inner = getattr(model, "model", None)  # some name a base model that is not in them
    return inner if body is model and isinstance(inner, torch.nn.Module) else body


def width_of(model: PreTrainedModel) -> int:
    """Units of the hidden states that the head reads; OPT-350M projects them to half its own width."""
    weight: Tensor = model.get_output_embeddings().weight
    return weight.shape[1]


@torch.no_grad()
def _agrees(model: PreTrainedModel, head: Head, weight: Tensor) -> bool:
    ids = torch.arange(1, 9, device=weight.device).remainder(head.vocab)[None]
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(ids.device.type, enabled=False):
            expected = model(input_ids=ids, use_cache=False).logits[0, :, : head.vocab].float()
            try:
                hidden_TD = backbone_of(model)(input_ids=ids, use_cache=False)[0][0]
                got = head.logits(hidden_TD).float()
            except (TypeError, ValueError, RuntimeError, AttributeError) as error:
                if is_out_of_memory(error):
                    raise
                return False  # its backbone takes other arguments, or gives something else
    finally:
        model.train(was_training)
    if expected.shape != got.shape:
        return False
    half = weight.dtype in (torch.bfloat16, torch.float16)
    scale = expected.abs().max().clamp_min(1e-12)
    return bool((expected - got).abs().max() <= (0.02 if half else 1e-4) * scale)


def backbone_hidden(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Final hidden states (N, D) at the positions that predict ``packed.target_N``.

    For a model whose ``head_of`` is dense: its logits (N, V') there.

    Args:
        model: causal language model; its head is not run.
        packed: where to read; moved to the model's device if it is elsewhere.
    """
    device = next(model.parameters()).device
    arguments = {
        "input_ids": packed.input_ids_RT.to(device),
        "position_ids": packed.position_ids_RT.to(device),
        "use_cache": False,  # with a cache, packed rows would see each other
    }
    if packed.attention_mask_RT is not None:
        arguments["attention_mask"] = packed.attention_mask_RT.to(device)
    apart = takes_apart(model)  # tried outside what follows, which is for these rows only
    with by_sequence.forward(model, packed):
        output_RTD = backbone_of(model)(**arguments)[0] if apart else model(**arguments).logits
    return output_RTD.flatten(0, 1).index_select(0, packed.source_N.to(device))


# -- arithmetic


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
    widen = device.type == "cpu" and cpu.slow_in_half(dtype)
    return dtype, torch.float32 if widen else dtype


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
    def __init__(self, hidden_ND: Tensor, head: Head, *, frozen: bool) -> None:
        self.head, self.out_dtype = head, sum_dtype(hidden_ND.dtype)
        self.bias_V: Tensor | None = None
        self.weight_VD: Tensor | None = None
        if head.weight is None:
            self.hidden_ND = hidden_ND if head.known else hidden_ND[:, : head.vocab]
            return
        values, arithmetic = matmul_dtypes(hidden_ND, head.weight)
        hidden_ND = hidden_ND if head.scale == 1.0 else hidden_ND * head.scale
        self.hidden_ND = hidden_ND.to(values).to(arithmetic)
        if frozen and head.weight.dtype != arithmetic:
            weight_VD = _frozen_cast(head.weight, values, arithmetic)
        else:
            weight_VD = head.weight.detach().to(values).to(arithmetic)
        self.weight_VD = weight_VD[: head.vocab]
        if head.bias is not None:
            self.bias_V = head.bias[: head.vocab].to(self.out_dtype) * head.scale

    def buffer(self, rows: int) -> Tensor:
        """Room for a tile of this projector's raw logits."""
        width = self.hidden_ND.shape[1] if self.head.known else self.head.vocab
        return self.hidden_ND.new_empty(rows, width)

    def raw(self, span: slice, out: Tensor | None = None) -> Tensor:
        """Logits of some rows in the matmul's precision, bias not yet added."""
        if self.weight_VD is None:
            found = self.hidden_ND[span]
            return found.clone() if out is None else out.copy_(found)
        with torch.autocast(self.hidden_ND.device.type, enabled=False):
            return torch.mm(self.hidden_ND[span], self.weight_VD.T, out=out)

    def wide(self, raw_nV: Tensor) -> Tensor:
        """What ``raw`` gives as logits before soft-capping, in float32 or float64; may share memory."""
        logits_nV = raw_nV.to(self.out_dtype)
        return logits_nV if self.bias_V is None else logits_nV.add_(self.bias_V)
