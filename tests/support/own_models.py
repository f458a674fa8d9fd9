"""A tiny pair and rows of its own: a chat model of random weights in the generated world's words."""

import itertools
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from kdbench.tasks import mini

CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def chat_model(folder: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """A model with a chat template."""
    tokenizer = mini.build_tokenizer()
    tokenizer.chat_template = CHAT
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, **ends)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chats(file: Path, count: int = 60, start: int = 0) -> Path:
    """Conversations of one question, as a file of messages."""
    rows = itertools.islice(mini.rows("train", size="mini-test"), start, start + count)
    lines = []
    for row in rows:
        asked = " ".join(filter(None, (row["instruction"], row.get("input"))))
        answer = row["output"] if isinstance(row["output"], str) else row["output"][0]
        said = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": said}) + "\n")
    file.write_text("".join(lines))
    return file
