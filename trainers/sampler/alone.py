"""Decoding one answer at a time: for models whose memory cannot be shared by rows of other lengths.

Recurrent states, convolutions, position biases, local windows of their own making: a model that the
slots of ``decoders`` do not fit still continues a single sequence by its own memory, without padding
or mask. That costs a forward pass an answer and token instead of one a token. What keeps no usable
memory at all reads the whole sequence again at each token.
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import PreTrainedModel

from kdbench.trainers.sampler.as_asked import cast_copy, evaluating
from kdbench.trainers.sampler.decoders import Decoder

# What models of transformers call their memory, in outputs and in ``forward``'s arguments.
_MEMORIES = ("cache", "past_key_values", "cache_params", "state")


class AloneDecoder(Decoder):
    """Any causal model of transformers, an answer at a time.

    Args:
        model: a causal language model.
        dtype: to compute in.
        remembers: go on from the model's own memory; False reads each sequence anew.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, *, remembers: bool) -> None:
        self.device = model.device
        self.dtype = dtype
        self._model = model if dtype == model.dtype else cast_copy(model, dtype)
        self.remembers = remembers
        self._takes = set(inspect.signature(model.forward).parameters)
        self._ids: list[list[int]] = []
        self._memory: list[dict[str, Any]] = []

    def session(self) -> AbstractContextManager[None]:
        """Evaluation mode, for the caller's model too."""
        return evaluating(self._model)

    def reset(self, count: int, capacity: int) -> None:
        """See ``Decoder``."""
        self._ids = [[] for _ in range(count)]
        self._memory = [{} for _ in range(count)]

    def fill(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """See ``Decoder``."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self._ids[slot], self._memory[slot] = list(prompt), {}
            if self.remembers and prompt:
                self._memory[slot] = self._forward(list(prompt), 0, {})[1]

    def step(self, tokens_n: torch.Tensor) -> torch.Tensor:
        """See ``Decoder``."""
        rows = []
        for slot, token in enumerate(tokens_n.tolist()):
            ids, before = self._ids[slot], len(self._ids[slot])
            ids.append(token)
            if self.remembers:
                logits_V, self._memory[slot] = self._forward([token], before, self._memory[slot])
            else:
                logits_V, _ = self._forward(ids, 0, {})
            rows.append(logits_V)
        return torch.stack(rows)

    def move(self, source: int, target: int) -> None:
        """See ``Decoder``."""
        self._ids[target], self._memory[target] = self._ids[source], self._memory[source]

    def _forward(
        self, ids: list[int], before: int, memory: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits after the last of these tokens, which follow ``before`` others; and the memory."""
        given: dict[str, Any] = {"input_ids": torch.tensor([ids], device=self.device)}
        if "position_ids" in self._takes:
            given["position_ids"] = torch.arange(before, before + len(ids), device=self.device)[
                None
            ]
        if "logits_to_keep" in self._takes:
            given["logits_to_keep"] = 1
        output = self._model(**given, **memory, use_cache=self.remembers)
        kept = {name: output[name] for name in _MEMORIES if output.get(name) is not None}
        return output.logits[0, -1], {k: v for k, v in kept.items() if k in self._takes}
