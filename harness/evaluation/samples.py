"""The append-only sample sink: answers are stored a chunk at a time and never generated twice.

A chunk of prompts is the unit of generation and of resume. What a kill leaves (a torn line, part of
a chunk) is cut and generated again, so a continued file is byte-identical to an uninterrupted one
as long as ``answer`` depends on nothing but its requests and seed.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SampleRow
from kdbench.harness.files.store import append_rows, keep_batches, make_folder, read_records
from kdbench.harness.questions import PromptDoc, Response

Answerer = Callable[[Sequence[PromptDoc], int], Iterator[list[Response]]]
"""(prompts, decoding seed) -> responses in order, one list a chunk of prompts."""


class Collected(NamedTuple):
    """All answers of one (evaluation, seed), and how many of them this call generated."""

    rows: list[SampleRow]
    generated: int


def collect(
    path: Path,
    docs: Sequence[PromptDoc],
    answer: Answerer,
    *,
    seed: int,
    chunk: int,
    on_progress: Callable[[int], None] | None = None,
) -> Collected:
    """Reads what is stored, generates the rest, and appends it chunk by chunk.

    Args:
        path: the sample file.
        docs: the evaluation's prompts in order.
        answer: the model; must return lists of ``chunk`` responses (the last may be shorter).
        seed: decoding seed.
        chunk: prompts a chunk; part of the evaluation's key.
        on_progress: called with the number of prompts answered so far, after each chunk.

    Raises:
        InputError: the file holds answers to other prompts.
        RuntimeError: ``answer`` returned other than one response a request, or broke a chunk.
    """
    rows = _stored(path, docs, seed=seed, chunk=chunk)
    done = len(rows)
    if on_progress and done:
        on_progress(done)
    if done < len(docs):
        make_folder(path.parent)
        for responses in answer(docs[done:], seed):
            expected = min(chunk, len(docs) - len(rows))
            if len(responses) != expected:
                raise RuntimeError(f"the model gave {len(responses)} answers to {expected} prompts")
            places = docs[len(rows) : len(rows) + expected]
            new = [_row(doc, r, seed) for doc, r in zip(places, responses, strict=True)]
            append_rows(path, new)
            rows += new
            if on_progress:
                on_progress(len(rows))
    if len(rows) != len(docs):
        raise RuntimeError(f"the model stopped after {len(rows)} of {len(docs)} prompts")
    return Collected(rows, len(rows) - done)


def _stored(path: Path, docs: Sequence[PromptDoc], *, seed: int, chunk: int) -> list[SampleRow]:
    """Whole chunks on disk; anything after them is cut off."""
    rows = read_records(path, SampleRow)
    for row, doc in zip(rows, docs, strict=False):
        if (row.doc_id, row.prompt_hash, row.seed) != (doc.doc_id, doc.prompt_hash, seed):
            raise InputError(
                f"{path} holds answers to other prompts than this evaluation's (row of prompt "
                f"{row.doc_id}); move it away"
            )
    if len(rows) > len(docs):
        raise InputError(f"{path} holds {len(rows)} answers to {len(docs)} prompts; move it away")
    return keep_batches(path, rows, len(docs), chunk)


def _row(doc: PromptDoc, response: Response, seed: int) -> SampleRow:
    return SampleRow(
        doc_id=doc.doc_id,
        prompt_hash=doc.prompt_hash,
        seed=seed,
        prompt=doc.prompt,
        references=list(doc.references),
        category=doc.category,
        response=response.text,
        response_tokens=response.response_tokens,
        finished=response.finished,
        reference_tokens=doc.reference_tokens,
    )
