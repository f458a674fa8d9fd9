"""Prompt templates: how an instruction becomes the text a model continues.

Every template's prompt ends where the response begins, so that prompt + response is the whole text.
Conversations are written by ``chat`` as they are; other templates put a system's text first, as a paragraph
of its own, and refuse earlier questions. Plain text has no prompt under any template.
To add one: a function (example, format, tokenizer) -> text and a line in `TEMPLATES`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from kdbench.harness.data import chat
from kdbench.harness.data.examples import Example
from kdbench.harness.errors import InputError, unknown

_HEADER = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How a row becomes the tokens of a prompt; a template's bare name stands for all defaults.

    Attributes:
        template: a key of `TEMPLATES`.
        date: ISO date that chat templates are told instead of today's.
        arguments: what chat templates are given by name, as ``enable_thinking``.
        begin: whether prompts start with the begin token; ``auto``: as the chat template writes it,
            of plain templates as the tokenizer adds it by default.
    """

    template: str
    date: str = chat.DATE
    arguments: Mapping[str, Any] = field(default_factory=dict)
    begin: chat.BeginToken = "auto"

    @classmethod
    def of(cls, form: "str | Self") -> "PromptFormat":
        """A format, or the defaults of a template's name."""
        return cls(form) if isinstance(form, str) else form


Form = str | PromptFormat


def _alpaca(example: Example, form: PromptFormat, tokenizer: Any) -> str:
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


def _chat(example: Example, form: PromptFormat, tokenizer: Any) -> str:
    """One user turn in the tokenizer's own chat format, opened for the assistant's answer."""
    messages = [{"role": role, "content": text} for role, text in asked_as(example)]
    return chat.rendered(tokenizer, messages, date=form.date, arguments=form.arguments)


def asked_as(example: Example) -> tuple[tuple[str, str], ...]:
    """An example as a chat reads it: (role, text) of what was said before, and of the question."""
    return (*example.turns, ("user", _none(example)))


def _mini(example: Example, form: PromptFormat, tokenizer: Any) -> str:
    """The generated world: words and marks separated by single spaces, a space at the end."""
    if not example.instruction:
        return f"{_none(example).rstrip()} "
    given = f"Input : {example.input} " if example.input else ""
    return f"Instruction : {example.instruction} {given}Response : "


def _none(example: Example, form: PromptFormat | None = None, tokenizer: Any = None) -> str:
    """Instruction and input as a person would type them; a bare prompt if that is all there is."""
    return "\n\n".join(part for part in example.question if part)


TEMPLATES: dict[str, Callable[[Example, PromptFormat, Any], str]] = {
    "alpaca": _alpaca,
    "chat": _chat,
    "mini": _mini,
    "none": _none,
}


def render(example: Example, form: Form, tokenizer: Any = None) -> str:
    """The prompt text of an example.

    Args:
        example: the row.
        form: how, or a key of `TEMPLATES`.
        tokenizer: a transformers tokenizer; only ``chat`` needs it.

    Raises:
        InputError: unknown template, the tokenizer has no chat template, the template fails, or it
            cannot write a conversation.
    """
    form = PromptFormat.of(form)
    if form.template not in TEMPLATES:
        raise unknown("prompt template", form.template, TEMPLATES)
    if example.is_text:
        return ""
    before = "" if form.template == "chat" else _system(example, form.template)
    return before + TEMPLATES[form.template](example, form, tokenizer)


def _system(example: Example, template: str) -> str:
    """A system's text as a paragraph before a prompt that has no place for it."""
    earlier = [role for role, _ in example.turns if role != "system"]
    if earlier:
        raise InputError(
            f"row {example.doc_id + 1} of the data is a conversation with {len(earlier)} turns before its "
            f"last question, which the template {template} cannot write; use the tokenizer's chat "
            "template (--set pair.template=chat)"
        )
    return "".join(f"{text}\n\n" for _, text in example.turns)


def prompt_key(text: str) -> int:
    """63-bit id of a prompt text; seeds the sampler's noise."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def prompt_hash(text: str) -> str:
    """First 16 hex digits of the sha256 of a prompt text; pairs runs prompt by prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
