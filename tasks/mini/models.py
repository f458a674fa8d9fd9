"""Sizes of the mini teacher and student; how the teacher is trained is in ``settings``."""

from typing import TYPE_CHECKING

from kdbench.tasks.mini.tokenizer import EOS, PAD, vocabulary

if TYPE_CHECKING:
    from transformers import LlamaConfig

# (width, layers, heads, feed-forward width)
MODELS = {
    "teacher": {"mini": (160, 3, 4, 448), "mini-test": (64, 2, 4, 128)},
    "student": {"mini": (32, 3, 2, 256), "mini-test": (32, 1, 2, 64)},
}


def _config(role: str, size: str) -> "LlamaConfig":
    from transformers import LlamaConfig

    width, layers, heads, feed_forward = MODELS[role][size]
    ids = vocabulary()
    return LlamaConfig(
        vocab_size=len(ids),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=feed_forward,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
    )


def teacher_config(size: str = "mini") -> "LlamaConfig":
    """The teacher's architecture: 0.95 million parameters outside the embedding at ``mini``."""
    return _config("teacher", size)


def student_config(size: str = "mini") -> "LlamaConfig":
    """The student's architecture: about a tenth of the teacher's non-embedding parameters."""
    return _config("student", size)
