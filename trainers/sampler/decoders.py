"""A language model as the sampler sees it: prompts go into slots, steps give next-token logits.

``decoder_for`` picks the cheap path for Llama-like models and the model's own forward for all
others. Both write the same slots (``decode_cache``) and are tested to give the same logits.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from transformers import PreTrainedModel

from kdbench.harness.errors import InputError
from kdbench.trainers.sampler.cache import SlotCache, Slots, Step, prompt_groups

# Padding worth accepting to save a forward pass: a guess, between what small and large models want.
_GROUP_PADDING = 64
_GROUP_TOKENS = 2048
# Attention of transformers that honours a given (rows, 1, 1, columns) mask; flash kernels do not.
_MASKED_ATTENTION = {"eager", "sdpa"}


class Decoder(ABC):
    """Next-token logits for a set of slots. Slots 0 … n-1 are live, those behind them are free.

    Args:
        device: where the model is.
        dtype: what it computes in.
        pad_id: any valid token id; pads groups of prompts on the right, where nothing sees it.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, pad_id: int) -> None:
        self.device = device
        self.dtype = dtype
        self._pad_id = pad_id
        self.slots = Slots(0, 0, device, dtype)

    def reset(self, count: int, capacity: int) -> None:
        """Makes ``count`` empty slots of ``capacity`` columns; larger storage is kept."""
        if self.slots.count < count or self.slots.capacity < capacity:
            self.slots = Slots(
                max(count, self.slots.count),
                max(capacity, self.slots.capacity),
                self.device,
                self.dtype,
            )
            self._allocate()

    def fill(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Reads prompts into slots; an empty prompt makes an empty slot."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self.slots.occupy(slot, len(prompt))
        lengths = [len(prompt) for prompt in prompts]
        for group in prompt_groups(lengths, padding=_GROUP_PADDING, tokens=_GROUP_TOKENS):
            width = lengths[group[0]]
            if width == 0:
                continue
            rows = [
                [*prompts[index], *[self._pad_id] * (width - lengths[index])] for index in group
            ]
            ids_rT = torch.tensor(rows, device=self.device)
            self._read(ids_rT, torch.tensor([slots[index] for index in group], device=self.device))

    def step(self, tokens_n: torch.Tensor) -> torch.Tensor:
        """Appends a token to each live slot; returns logits of what follows, (n, V)."""
        return self._advance(tokens_n, self.slots.advance(len(tokens_n)))

    def move(self, source: int, target: int) -> None:
        """Copies a slot over another."""
        self._copy(source, target, self.slots.move(source, target))

    def session(self) -> AbstractContextManager[None]:
        """To be entered around a run of ``fill`` and ``step``."""
        return nullcontext()

    @abstractmethod
    def _allocate(self) -> None:
        """Makes storage for ``self.slots``."""

    @abstractmethod
    def _read(self, ids_rT: torch.Tensor, slots_r: torch.Tensor) -> None:
        """Stores keys and values of right-padded prompts."""

    @abstractmethod
    def _advance(self, tokens_n: torch.Tensor, step: Step) -> torch.Tensor:
        """One step."""

    @abstractmethod
    def _copy(self, source: int, target: int, length: int) -> None:
        """Copies stored keys and values."""


class ForwardDecoder(Decoder):
    """Any causal model of transformers with full attention, by its own ``forward``."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, pad_id: int) -> None:
        super().__init__(model.device, dtype, pad_id)
        self._model = model if dtype == model.dtype else cast_copy(model, dtype)
        self._cache = SlotCache(self.slots, 0)

    def session(self) -> AbstractContextManager[None]:
        """Evaluation mode and an attention that takes masks, for the caller's model too."""
        return evaluating(self._model)

    def _allocate(self) -> None:
        layers = self._model.config.get_text_config().num_hidden_layers
        self._cache = SlotCache(self.slots, layers)

    def _read(self, ids_rT: torch.Tensor, slots_r: torch.Tensor) -> None:
        self._cache.step, self._cache.filling_r = None, slots_r
        positions_rT = torch.arange(ids_rT.shape[1], device=self.device).expand_as(ids_rT)
        self._forward(ids_rT, positions_rT, None)

    def _advance(self, tokens_n: torch.Tensor, step: Step) -> torch.Tensor:
        self._cache.step = step
        logits_n1V = self._forward(tokens_n[:, None], step.positions_n[:, None], step.mask_n11W)
        return logits_n1V[:, -1]

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits
        return logits

    def _copy(self, source: int, target: int, length: int) -> None:
        self._cache.move(source, target, length)


def decoder_for(
    model: PreTrainedModel, *, dtype: torch.dtype | None, vocab: int, pad_id: int, longest: int
) -> Decoder:
    """The cheapest decoder that computes this model.

    Args:
        model: a causal language model; its weights are read now and must not change while the
            decoder is in use.
        dtype: to compute in; None is the model's own.
        vocab: number of real tokens.
        pad_id: any valid token id.
        longest: the longest sequence, prompt included, that will be asked for.

    Raises:
        InputError: the model cannot be sampled from: its attention is not plain full attention, or
            its vocabulary is smaller than the tokenizer's.
    """
    from kdbench.trainers.cpu.llama import LlamaDecoder, is_plain_llama

    config = model.config.get_text_config().to_dict()
    name = config.get("model_type")
    if config["vocab_size"] < vocab:
        raise InputError(
            f"model {name} has {config['vocab_size']} output tokens but the tokenizer {vocab}; "
            "use the tokenizer that belongs to the model"
        )
    window = config.get("sliding_window")
    kinds = set(config.get("layer_types") or ())
    windowed = "sliding_attention" in kinds or (window and not kinds)
    if kinds - {"full_attention", "sliding_attention"} or (windowed and (window or 0) < longest):
        raise InputError(
            f"model {name} does not attend to the whole of a {longest}-token sequence "
            f"({', '.join(sorted(kinds)) or f'window {window}'}), which the sampler needs; "
            "use a model with full attention or shorter sequences"
        )
    dtype = dtype or model.dtype
    if is_plain_llama(model):
        return LlamaDecoder(model, dtype, pad_id, vocab, longest)
    return ForwardDecoder(model, dtype, pad_id)


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
