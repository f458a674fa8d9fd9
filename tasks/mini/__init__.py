"""A small generated world with a known true answer distribution: the embedded default suite."""

from kdbench.tasks.mini.models import (
    MODELS,
    model_config,
    own_tokenizer,
    tokenizer_of,
    world_model,
)
from kdbench.tasks.mini.parse import render
from kdbench.tasks.mini.tokenizer import build_tokenizer
from kdbench.tasks.mini.truth import Truth
from kdbench.tasks.mini.world import EDITION, SIZES, plain_text, rows, truth_of

__all__ = [
    "EDITION",
    "MODELS",
    "SIZES",
    "Truth",
    "build_tokenizer",
    "model_config",
    "own_tokenizer",
    "plain_text",
    "render",
    "rows",
    "tokenizer_of",
    "truth_of",
    "world_model",
]
