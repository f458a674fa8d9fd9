"""Prompt templates: how an instruction becomes the text a model continues.

Every template's prompt ends where the response begins, so that prompt + response is the whole text.
To add one: a function (example, tokenizer) -> text and a line in `TEMPLATES`.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from kdbench.harness.data.examples import Example
from kdbench.harness.errors import InputError, unknown

_HEADER = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."


def _alpaca(example: Example, tokenizer: Any) -> str:
    """The Alpaca wording, as in the papers; a ready ``prompt`` of the file is taken as it is
    (LMOps minillm data_utils/prompt_datasets.py reads that field too).
    """
    if example.prompt is not None:
        return example.prompt
    if not example.input:
        return (
            f"{_HEADER}. {_REQUEST}\n\n### Instruction:\n{example.instruction}\n\n### Response:\n"
        )
    return (
        f"{_HEADER}, paired with an input that provides further context. {_REQUEST}\n\n"
        f"### Instruction:\n{example.instruction}\n\n### Input:\n{example.input}\n\n"
        "### Response:\n"
    )


def _chat(example: Example, tokenizer: Any) -> str:
    """One user turn in the tokenizer's own chat format, opened for the assistant's answer."""
    if tokenizer is None or not tokenizer.chat_template:
        whose = "" if tokenizer is None else f" of {tokenizer.name_or_path}"
        raise InputError(f"the tokenizer{whose} has no chat template; use the template alpaca")
    messages = [{"role": "user", "content": _none(example)}]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def _mini(example: Example, tokenizer: Any) -> str:
    """The generated world: words and marks separated by single spaces, a space at the end."""
    if not example.instruction:
        return f"{_none(example).rstrip()} "
    given = f"Input : {example.input} " if example.input else ""
    return f"Instruction : {example.instruction} {given}Response : "


def _none(example: Example, tokenizer: Any = None) -> str:
    """Instruction and input as a person would type them; a bare prompt if that is all there is."""
    return "\n\n".join(part for part in example.question if part)


TEMPLATES: dict[str, Callable[[Example, Any], str]] = {
    "alpaca": _alpaca,
    "chat": _chat,
    "mini": _mini,
    "none": _none,
}


def render(example: Example, template: str, tokenizer: Any = None) -> str:
    """The prompt text of an example.

    Args:
        example: the row.
        template: a key of `TEMPLATES`.
        tokenizer: a transformers tokenizer; only ``chat`` needs it.

    Raises:
        InputError: unknown template, or the tokenizer has no chat template.
    """
    if template not in TEMPLATES:
        raise unknown("prompt template", template, TEMPLATES)
    return TEMPLATES[template](example, tokenizer)


def prompt_key(text: str) -> int:
    """63-bit id of a prompt text; seeds the sampler's noise."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def prompt_hash(text: str) -> str:
    """First 16 hex digits of the sha256 of a prompt text; pairs runs prompt by prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
