"""What checks look at: one model with its tokenizer, loaded when a check first asks for it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.data.templates import PromptFormat
from kdbench.harness.files.records import ModelRef
from kdbench.trainers.models import (
    Vocabulary,
    config_from,
    load_model,
    load_tokenizer,
    moved,
    vocabulary,
)

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
        trained: whether it learns (student), so that gradients flow.
    """

    role: Role
    ref: str
    card: ModelRef
    dtype: torch.dtype
    device: torch.device
    tokens: int
    form: PromptFormat
    trained: bool = False

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
        return moved(load_model(self.ref, dtype=self.dtype), device=self.device)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Real tokens and end tokens."""
        return vocabulary(self.tokenizer, self.model)
