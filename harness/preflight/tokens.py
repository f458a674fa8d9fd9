"""Whether every id of the tokenizer has an embedding and a column of the head."""

from collections.abc import Iterator
from typing import Any

from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.subject import Subject
from kdbench.trainers.models import usable


def check(subject: Subject) -> Iterator[Finding]:
    """The tokenizer's largest id against both ends of the model."""
    known = max(subject.tokenizer.get_vocab().values()) + 1
    first: Any = subject.cut.get_input_embeddings()
    last: Any = subject.cut.get_output_embeddings()
    rows, columns = first.weight.shape[0], last.weight.shape[0]
    ids = usable(subject.tokenizer, min(rows, columns))
    if ids > min(rows, columns):
        short, count = ("embeddings", rows) if rows < ids else ("output columns", columns)
        yield Finding(
            "tokens",
            f"the tokenizer of {subject.name} has {ids} ids, but the model {count} {short}; use the "
            "tokenizer that belongs to the model, or resize the model's embeddings",
            "fail",
        )
        return
    spare = f", {columns - ids} columns are padding" if columns > ids else ""
    yield Finding("tokens", f"{ids} ids{spare}")
    if known > ids:
        yield Finding(
            "tokens",
            f"the tokenizer of {subject.name} has {known - ids} added tokens more, for which the model has "
            "no place; rows that hold one are refused",
            "warn",
        )
