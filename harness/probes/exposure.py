"""Exposure bias of a student against a teacher, resumable a group of prompts at a time.

Contexts are sampled by the one sampler, from both models with the same decoding and the same noise:
common random numbers, which make the difference R - L eps less noisy and leave each mean as it is.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record
from kdbench.harness.files.store import append_rows, keep_rows, read_records
from kdbench.harness.probes.models import MICRO_TOKENS, Probed, prompt_ids
from kdbench.harness.questions import PromptDoc
from kdbench.tasks.protocols import Protocol
from kdbench.trainers.exposure import prompt_errors, sequence_errors
from kdbench.trainers.models import same_tokenizer
from kdbench.trainers.types import Decoding, Prompt
from kdbench.trainers.types import Sequence as Tokens

Array = NDArray[np.float64]


class ContextRow(Record):
    """One prompt's mean errors by place, on contexts of one model; 0 beyond the last of them."""

    doc_id: int
    prompt_hash: str
    errors: list[float]
    tokens: int


def check_pair(student: Probed, teacher: Probed) -> None:
    """Raises InputError if the two cannot be compared token by token."""
    if not same_tokenizer(student.tokenizer, teacher.tokenizer):
        raise InputError(
            "exposure bias compares student and teacher token by token, but their tokenizers "
            "differ; give a teacher with the student's tokenizer, or leave exposure out of --probes"
        )


def context_errors(
    writer: Probed,
    student: Probed,
    teacher: Probed,
    docs: Sequence[PromptDoc],
    *,
    path: Path,
    protocol: Protocol,
    decoding: Decoding,
    samples: int,
    on_progress: Callable[[int], None] | None = None,
) -> list[ContextRow]:
    """D(teacher | student) on contexts that ``writer`` samples; continues what ``path`` holds.

    Args:
        writer: who writes the contexts: the student for R, the teacher for L eps.
        student: the model whose errors are measured.
        teacher: the model they are measured against.
        docs: prompts in order.
        path: JSONL of `ContextRow`, appended a group of prompts at a time.
        protocol: whether the first token counts and how samples are averaged.
        decoding: sampling settings, seed included.
        samples: answers a prompt.
        on_progress: called with the number of prompts done.
    """
    group = max(1, writer.chunk // samples)
    rows = _stored(path, docs, group)
    ids = prompt_ids(writer.tokenizer, docs, protocol)
    for start in range(len(rows), len(docs), group):
        part = range(start, min(start + group, len(docs)))
        prompts = [Prompt(ids[i], docs[i].key, sample) for i in part for sample in range(samples)]
        answers = writer.answers(prompts, decoding)
        sequences = [
            Tokens(prompt.ids, answer.ids) for prompt, answer in zip(prompts, answers, strict=True)
        ]
        errors = sequence_errors(
            student.model,
            student.head,
            teacher.model,
            teacher.head,
            sequences,
            layout=student.layout(sequences, teacher.model),
            micro_tokens=MICRO_TOKENS,
        )
        new = [
            ContextRow(
                doc_id=docs[i].doc_id,
                prompt_hash=docs[i].prompt_hash,
                errors=averaged(errors[n * samples : (n + 1) * samples], protocol).tolist(),
                tokens=sum(len(a.ids) for a in answers[n * samples : (n + 1) * samples]),
            )
            for n, i in enumerate(part)
        ]
        append_rows(path, new)
        rows += new
        if on_progress:
            on_progress(len(rows))
    return rows


def averaged(errors: Sequence[Tensor], protocol: Protocol) -> Array:
    """A prompt's mean error at each place under a protocol, as long as its longest sample.

    `minillm-compat` begins at the second token, and averages over samples still running.
    """
    first = 0 if protocol.exposure_first_token else 1
    scored = [np.asarray(e[first:], dtype=float) for e in errors]
    width = max(map(len, scored), default=0)
    values_ST, mask_ST = np.zeros((len(scored), width)), np.zeros((len(scored), width))
    for row, mask, values in zip(values_ST, mask_ST, scored, strict=True):
        row[: len(values)], mask[: len(values)] = values, 1.0
    return prompt_errors(values_ST, mask_ST, live_offset=protocol.exposure_count_offset or None)


def table(rows: Sequence[ContextRow], width: int) -> Array:
    """Errors of all prompts, (P, width)."""
    errors_PT = np.zeros((len(rows), width))
    for place, row in zip(errors_PT, rows, strict=True):
        place[: len(row.errors)] = row.errors[:width]
    return errors_PT


def _stored(path: Path, docs: Sequence[PromptDoc], group: int) -> list[ContextRow]:
    rows = read_records(path, ContextRow)
    if len(rows) > len(docs) or any(
        row.prompt_hash != doc.prompt_hash for row, doc in zip(rows, docs, strict=False)
    ):
        raise InputError(f"{path} holds errors of other prompts than this evaluation's; move it")
    whole = len(rows) if len(rows) == len(docs) else len(rows) // group * group
    if whole < len(rows):
        keep_rows(path, whole)
    return rows[:whole]
