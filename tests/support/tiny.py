"""Tiny random models of the real families, and a training wired up by hand."""

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from kdbench.trainers.proof import EOS, VOCAB
from kdbench.trainers.proof import random_sequences as sequences
from kdbench.trainers.proof import tiny_loop as loop

__all__ = ["EOS", "FAMILIES", "VOCAB", "config", "loop", "model", "sequences"]

FAMILIES = ("gpt2", "opt", "llama", "qwen2")


def config(family: str, *, tied: bool = True, width: int = 32, layers: int = 2) -> PretrainedConfig:
    """A configuration with dropout off and room for 128 positions."""
    ids = {"bos_token_id": 0, "eos_token_id": EOS, "pad_token_id": 0}
    common = {"vocab_size": VOCAB, "tie_word_embeddings": tied, **ids}
    if family == "gpt2":
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(n_embd=width, n_layer=layers, n_head=4, n_positions=128, **off, **common)
    if family == "opt":
        return OPTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            ffn_dim=2 * width,
            max_position_embeddings=128,
            word_embed_proj_dim=width,
            dropout=0.0,
            **common,
        )
    kind = LlamaConfig if family == "llama" else Qwen2Config
    return kind(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        **common,
    )


def model(
    family: str = "llama", *, seed: int = 0, tied: bool = True, **sizes: int
) -> PreTrainedModel:
    """A random model whose predictions are far from uniform."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config(family, tied=tied, **sizes))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return made.eval()
