"""What checks look at: one model with its tokenizer, loaded when a check first asks for it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.data.templates import PromptFormat
from kdbench.harness.files.records import ModelRef
from kdbench.harness.provenance import total_memory
from kdbench.trainers.models import (
    Vocabulary,
    config_from,
    load_model,
    load_tokenizer,
    moved,
    quiet,
    verify_model,
    vocabulary,
)
from kdbench.trainers.pruning import depth, load_first_layers, shortest
from kdbench.trainers.sampler.as_asked import cast_copy

WHOLE = 20_000_000
"""Parameters below which a model stands for itself in every check."""
MOST = 1_500_000_000
"""Parameters above which no check loads the whole model."""

Role = Literal["teacher", "student", "model"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model as it will be used.

    Args:
        role: what it is in the run.
        ref: folder or .gguf file.
        card: its name, size and fingerprints.
        dtype: what it will compute answers in.
        device: where.
        tokens: prompt and answer of the longest sequence it may be given, each cut to its limit.
        form: how its prompts are written.
    """

    role: Role
    ref: str
    card: ModelRef
    dtype: torch.dtype
    device: torch.device
    tokens: int
    form: PromptFormat

    @property
    def name(self) -> str:
        """How sentences call it."""
        return f"{self.role} {self.card.name!r}"

    @cached_property
    def config(self) -> PretrainedConfig:
        """Its configuration."""
        return config_from(self.ref)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its own tokenizer."""
        return load_tokenizer(self.ref)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in eval mode, in the precision it answers in."""
        with quiet():
            return moved(load_model(self.ref, dtype=self.dtype), device=self.device)

    @cached_property
    def cut(self) -> PreTrainedModel:
        """A stand-in that computes alike: its first layers, enough for every kind; small models whole.

        All kinds of layers, the embeddings and the head are the model's own; what a check of it costs
        does not grow with its depth.
        """
        if self.card.parameters < WHOLE or self.ref.endswith(".gguf"):
            return self.model
        keep = shortest(self.config)
        if keep >= depth(self.config):
            return self.model
        with quiet():
            model = load_first_layers(self.ref, self.config, keep)
        if self.dtype != torch.float32:
            model = cast_copy(model, self.dtype)
        return moved(model, device=self.device)

    @cached_property
    def whole(self) -> PreTrainedModel:
        """All of it, for one look, in eval mode; of a large model the stand-in.

        As its files are, since to convert a large one takes seconds; float16 overflows where the
        run's precision does not, so it is converted.
        """
        if not self.fits:
            return self.cut
        if self.card.parameters < WHOLE or self.ref.endswith(".gguf"):
            return self.model
        mapped = verify_model(self.ref)
        if mapped.dtype == torch.float16:
            return self.model
        return moved(mapped, device=self.device).eval()

    @property
    def fits(self) -> bool:
        """Whether the whole model is tried: it is small enough to be loaded once more in seconds."""
        return self.card.parameters <= MOST and 6 * self.card.parameters < total_memory()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Real tokens and end tokens."""
        return vocabulary(self.tokenizer, self.cut)
