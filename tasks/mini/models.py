"""Sizes and architectures of the world's teacher and students; how the teacher is trained is in
``settings``.
"""

from typing import TYPE_CHECKING, Any

from kdbench.tasks.mini.pieces import build_bpe_tokenizer
from kdbench.tasks.mini.tokenizer import EOS, PAD, build_tokenizer
from kdbench.tasks.mini.world import SIZES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

# (width, layers, heads, feed-forward width); outside the embedding the teacher has 0.95 million
# parameters at ``mini-2``, and the student about a tenth of the teacher's
MODELS = {
    "teacher": {"mini-2": (160, 3, 4, 448), "mini-test": (64, 2, 4, 128)},
    "student": {"mini-2": (32, 3, 2, 256), "mini-test": (32, 1, 2, 64)},
    # for studies of the student's size: 14, 197 and 442 thousand parameters outside the embedding
    "student-small": {"mini-2": (16, 2, 2, 128), "mini-test": (16, 1, 2, 32)},
    "student-large": {"mini-2": (64, 3, 4, 256), "mini-test": (48, 1, 2, 64)},
    "student-larger": {"mini-2": (96, 3, 4, 384), "mini-test": (48, 2, 2, 64)},
    # of another architecture than the teacher's: learned positions and GELU; grouped query attention
    "student-gpt2": {"mini-2": (32, 3, 2, 384), "mini-test": (32, 1, 2, 64)},
    "student-qwen3": {"mini-2": (32, 3, 2, 256), "mini-test": (32, 1, 2, 64)},
    # with a byte-pair tokenizer of its own
    "student-bpe": {"mini-2": (32, 3, 2, 256), "mini-test": (32, 1, 2, 64)},
}


def own_tokenizer(role: str) -> bool:
    """Whether a role's tokenizer is another than the world's."""
    return role == "student-bpe"


def tokenizer_of(role: str, size: str) -> "PreTrainedTokenizerFast":
    """The tokenizer of a role in a world size."""
    return build_bpe_tokenizer(size) if own_tokenizer(role) else build_tokenizer()


def world_model(ref: str) -> tuple[str, str] | None:
    """``mini-2:teacher`` as (world size, role); None for any other reference."""
    size, _, role = ref.partition(":")
    return (size, role) if size in SIZES and role in MODELS else None


def model_config(role: str, size: str) -> "PretrainedConfig":
    """The architecture of a role (a key of ``MODELS``) in a world size."""
    from transformers import GPT2Config, LlamaConfig, Qwen3Config

    width, layers, heads, feed_forward = MODELS[role][size]
    ids = tokenizer_of(role, size).get_vocab()
    shared: dict[str, Any] = {
        "vocab_size": len(ids),
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ids[EOS],
        "pad_token_id": ids[PAD],
    }
    if role == "student-gpt2":
        own: dict[str, Any] = {
            "n_embd": width,
            "n_layer": layers,
            "n_head": heads,
            "n_inner": feed_forward,
        }
        return GPT2Config(n_positions=256, **own, **shared)
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": feed_forward,
        "max_position_embeddings": 256,
    }
    if role == "student-qwen3":
        head: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": width // heads}
        return Qwen3Config(**head, **sizes, **shared)
    return LlamaConfig(num_key_value_heads=heads, **sizes, **shared)
