"""Instruction rows and the JSON Lines files they come from."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import objects, reading


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction and the answers that count as right.

    Attributes:
        doc_id: 0-based row number in its file (or split), kept when other rows are dropped.
        instruction: what is asked; may be empty only if ``prompt`` is there.
        input: what it is asked about; empty is normal.
        references: at least one answer; training uses the first.
        prompt: a ready prompt in the Alpaca wording, if the file has one.
        category: the kind of instruction, if the file says (``topic`` or ``category``).
        turns: what was said before, as (role, text): a system's text, earlier questions and answers.

    A row of plain text asks nothing: its prompt is the empty text.
    """

    doc_id: int
    instruction: str
    input: str
    references: tuple[str, ...]
    prompt: str | None = None
    category: str | None = None
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether it is plain text, which follows no question."""
        return self.prompt == "" and not self.instruction

    @property
    def asked(self) -> tuple[str, ...]:
        """All that stands before the answer."""
        return (*(text for _, text in self.turns), *self.question)

    @property
    def question(self) -> tuple[str, ...]:
        """Instruction and input; the bare prompt if that is all there is."""
        return (self.instruction, self.input) if self.instruction else (self.prompt or "",)


def read_objects(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for every non-blank line of a JSON Lines file.

    Raises:
        InputError: no such file, or a line is no UTF-8, no JSON, or no JSON object.
    """
    with reading(path, "give an existing JSONL file"):
        data = Path(path).read_bytes()
    yield from objects(data, path)


def load_jsonl(path: Path | str) -> list[Example]:
    """Reads instruction rows: ``instruction`` and/or ``prompt``, ``input``, ``output``, …

    Args:
        path: JSON Lines, UTF-8; ``output`` is a text or a list of texts; blank lines are skipped.

    Returns:
        Rows in file order, ``doc_id`` counting from 0.

    Raises:
        InputError: names file and line; also for a file without rows.
    """
    examples = [
        _example(index, row, f"{path}:{number}")
        for index, (number, row) in enumerate(read_objects(path))
    ]
    if not examples:
        raise InputError(f"{path} has no rows; give a JSONL file with at least one")
    return examples


def parse_examples(rows: Iterable[Mapping[str, Any]], *, where: str) -> list[Example]:
    """The same checks for rows that come from elsewhere (generated data, the hub).

    Args:
        rows: mappings with the keys of `load_jsonl`.
        where: what error messages call the source; the row number is added.
    """
    return [_example(index, row, f"{where}, row {index + 1}") for index, row in enumerate(rows)]


def _example(doc_id: int, row: Mapping[str, Any], where: str) -> Example:
    instruction, prompt = _text(row, "instruction", where), _text(row, "prompt", where)
    if not instruction.strip() and not prompt.strip():
        raise InputError(f"{where} has neither instruction nor prompt; add one of them")
    references = _references(row.get("output"), where)
    category = _text(row, "topic", where) or _text(row, "category", where)
    example = Example(
        doc_id=doc_id,
        instruction=instruction,
        input=_text(row, "input", where),
        references=references,
        prompt=prompt or None,
        category=category or None,
    )
    _check_encodable(example, where)
    return example


def _references(output: Any, where: str) -> tuple[str, ...]:
    given = output if isinstance(output, list) else [output]
    if output is None or not given:
        raise InputError(f'{where} has no output; add "output": a text or a list of texts')
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise InputError(f"{where}: output must be a text or a list of texts")
    references = tuple(text for text in texts if text.strip())
    if not references:
        raise InputError(f"{where} has an empty output; fill it or remove the line")
    return references


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a text, not {type(value).__name__}")
    return value


def _check_encodable(example: Example, where: str) -> None:
    """Half a surrogate pair is legal in JSON but no tokenizer nor file can take it."""
    try:
        text = example.instruction + example.input + (example.prompt or "")
        "".join((text, *example.references)).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} holds half a surrogate pair (\\ud800–\\udfff); repair that text"
        ) from error


def encodable(example: Example) -> bool:
    """Whether no text of a row holds half a surrogate pair, which JSON can and files cannot."""
    texts = (*example.asked, example.prompt or "", *example.references)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def examples_sha256(examples: Iterable[Example]) -> str:
    """Hex sha256 of the rows themselves: the same for a file, its copy on the hub and generated
    rows, whatever the key order and spacing.
    """
    digest = hashlib.sha256()
    for example in examples:
        parts = asdict(example)
        if not example.turns:  # of rows that were read before there were any
            del parts["turns"]
        digest.update(json.dumps(parts, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
