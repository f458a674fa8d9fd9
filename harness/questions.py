"""The prompts of one evaluation: rendered, measured and filtered before anything is sampled.

The papers' scripts cut over-long prompts from the right; `strict` drops them. So the protocol is
applied here, and what it changed is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from kdbench.harness.data.examples import Example, examples_sha256
from kdbench.harness.data.templates import Form, PromptFormat, prompt_hash, prompt_key, render
from kdbench.harness.data.tokens import (
    TokenCounts,
    TokenizerLike,
    encode,
    opening,
    tokenise_prompts,
)
from kdbench.harness.errors import InputError
from kdbench.tasks.protocols import Protocol

Source = Literal["kdbench", "file", "lm-eval"]


class PromptDoc(NamedTuple):
    """One prompt to be answered, and what its answer is compared with.

    ``ids`` are the prompt's tokens, as the protocol lets them through; ``reference_tokens`` are those
    of the shortest reference, by the student's tokenizer, no end token: they decide the length bucket.
    """

    doc_id: int
    prompt: str
    prompt_hash: str
    key: int
    ids: tuple[int, ...]
    references: tuple[str, ...]
    category: str | None
    reference_tokens: int
    sample: int = 0
    """Of a prompt that is asked several times: which time, from 0."""


class Response(NamedTuple):
    """One answer; ``response_tokens`` includes the end token if ``finished``."""

    text: str
    response_tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """All prompts of one task under one protocol, for one tokenizer.

    Attributes:
        task: its name.
        source: who writes the prompts.
        place: the file that its rows came from, if it is a user's.
        edition: with its limit, as tables show it.
        protocol: the rules that were applied.
        template: how rows became prompts.
        docs: kept prompts in file order.
        counts: rows in, kept, dropped, prompts cut.
        data_sha256: of the rows before any was dropped.
    """

    task: str
    source: Source
    place: str
    edition: str
    protocol: Protocol
    template: str
    docs: tuple[PromptDoc, ...]
    counts: TokenCounts
    data_sha256: str

    def lengths_told(self, most: int, wanted: int, room: int | None) -> str:
        """What lengths did to the prompts and do to their answers, in one line; empty: nothing.

        Args:
            most: tokens that a prompt may have.
            wanted: tokens that an answer may have.
            room: the model's context in tokens, prompt and answer together; None: not known.
        """
        counts, said = self.counts, []
        if counts.dropped:
            said.append(f"{counts.dropped} of {counts.rows} prompts left out")
        if counts.prompts_cut:
            said.append(f"{counts.prompts_cut} of {counts.rows} prompts cut")
        if said:
            said = [f"{', '.join(said)} at {most} tokens"]
        if room and (short := sum(len(doc.ids) + wanted > room for doc in self.docs)):
            said.append(
                f"{short} answers have fewer than {wanted} tokens, since the model's context has {room}"
            )
        return f"note: {self.task}: {'; '.join(said)}" if said else ""


def prompt_doc(
    tokenizer: TokenizerLike, prompt: str, references: tuple[str, ...], **known: Any
) -> PromptDoc:
    """A prompt with what follows from its text and its references; ``known`` are all other fields."""
    return PromptDoc(
        prompt=prompt,
        prompt_hash=prompt_hash(prompt),
        key=prompt_key(prompt),
        references=references,
        reference_tokens=min(len(ids) for ids in encode(tokenizer, references)),
        **known,
    )


def prepared(
    examples: Sequence[Example],
    *,
    task: str,
    edition: str,
    protocol: Protocol,
    tokenizer: TokenizerLike,
    template: Form,
    source: Source = "kdbench",
    place: str = "",
    room: int | None = None,
) -> PreparedTask:
    """Rows as prompts, whoever's they are: rendered, and filtered as the protocol says.

    The rows are limited already, the tokenizer is the student's; ``room`` is the model's context in tokens:
    a prompt that fills it is dropped, whatever the protocol; other arguments as of `PreparedTask`.

    Raises:
        InputError: no prompt left, or a template that does not fit.
    """
    prompts = [render(example, template, tokenizer) for example in examples]
    kept, counts = tokenise_prompts(
        prompts, tokenizer, protocol.evaluation_rule, opening(tokenizer, template)
    )
    if room is not None:
        kept = [prompt for prompt in kept if len(prompt.ids) < room]
        counts.dropped += counts.kept - len(kept)
        counts.kept = len(kept)
        if protocol.max_prompt >= room:
            counts.prompts_cut = 0  # what was cut is among them
        if prompts and not kept:
            raise InputError(
                f"all {len(prompts)} prompts of {task} fill the model's context of {room} tokens; choose "
                "another model or task"
            )
    docs = []
    for prompt in kept:
        example, text = examples[prompt.place], prompts[prompt.place]
        known = {"doc_id": example.doc_id, "category": example.category, "ids": prompt.ids}
        docs.append(prompt_doc(tokenizer, text, example.references, **known))
    return PreparedTask(
        task=task,
        source=source,
        place=place,
        edition=edition,
        protocol=protocol,
        template=PromptFormat.of(template).template,
        docs=tuple(docs),
        counts=counts,
        data_sha256=examples_sha256(examples),
    )
