"""The prompts of one evaluation: rendered, measured and filtered before lm-eval sees them.

lm-eval cuts over-long prompts from the left; the papers' scripts cut them from the right; `strict`
drops them. So the protocol is applied here, and what it changed is counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.data import TokenCounts, prompt_hash, prompt_key, render, tokenise_prompts
from kdbench.harness.data.tokens import TokenizerLike, encode
from kdbench.tasks.catalogue import join_edition, split_edition, task_examples, task_sha256
from kdbench.tasks.protocols import Protocol


class PromptDoc(NamedTuple):
    """One prompt to be answered, and what its answer is compared with.

    ``reference_tokens`` are those of the shortest reference, by the student's tokenizer, no end
    token; they decide the length bucket.
    """

    doc_id: int
    prompt: str
    prompt_hash: str
    key: int
    references: tuple[str, ...]
    category: str | None
    reference_tokens: int


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """All prompts of one task under one protocol, for one tokenizer.

    Attributes:
        task: our name.
        edition: with its limit, as tables show it.
        protocol: the rules that were applied.
        docs: kept prompts in file order.
        counts: rows in, kept, dropped, prompts cut.
        data_sha256: of the rows before any was dropped.
    """

    task: str
    edition: str
    protocol: Protocol
    docs: tuple[PromptDoc, ...]
    counts: TokenCounts
    data_sha256: str


def prepare_task(
    task: str,
    edition: str,
    *,
    protocol: Protocol,
    tokenizer: TokenizerLike,
    template: str,
    limit: int | None = None,
    data_dir: Path | str | None = None,
) -> PreparedTask:
    """Loads, renders and filters a task's test rows.

    Args:
        task: a key of `kdbench.tasks.catalogue.TASKS`.
        edition: ``mini``, ``mini-test`` or ``full``, optionally with ``:limit``.
        protocol: its evaluation rule and lengths are applied.
        tokenizer: the student's, a transformers tokenizer.
        template: prompt template.
        limit: the first so many rows of the file (some of which the protocol may drop).
        data_dir: where real data is.

    Raises:
        InputError: unknown names, data not found, or no prompt left.
    """
    base, own_limit = split_edition(edition)
    limit = own_limit if limit is None else limit
    examples = task_examples(task, base, limit=limit, data_dir=data_dir)
    prompts = [render(example, template, tokenizer) for example in examples]
    kept, counts = tokenise_prompts(prompts, tokenizer, protocol.evaluation_rule)
    lengths = [
        min(len(ids) for ids in encode(tokenizer, examples[prompt.place].references))
        for prompt in kept
    ]
    docs = tuple(
        PromptDoc(
            doc_id=examples[prompt.place].doc_id,
            prompt=prompts[prompt.place],
            prompt_hash=prompt_hash(prompts[prompt.place]),
            key=prompt_key(prompts[prompt.place]),
            references=examples[prompt.place].references,
            category=examples[prompt.place].category,
            reference_tokens=length,
        )
        for prompt, length in zip(kept, lengths, strict=True)
    )
    return PreparedTask(
        task=task,
        edition=join_edition(base, limit),
        protocol=protocol,
        docs=docs,
        counts=counts,
        data_sha256=task_sha256(examples),
    )
