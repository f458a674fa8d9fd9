"""Tiny random models of the causal language models of transformers, by the name of their architecture."""

from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCAB = 99
WINDOW = 8  # tokens of local attention; shorter than the sequences of the checks
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FILE = Path(__file__).parents[1] / "data" / "architectures.yaml"
SETTINGS: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))


def config(name: str) -> PretrainedConfig:
    """The tiny configuration of an architecture."""
    given = SETTINGS[name]
    return getattr(transformers, given["class"])(
        **given.get("whole", SIZES | given.get("more", {}))
    )


def model(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model of it whose predictions are far from uniform."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config(name), dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return made.eval()
