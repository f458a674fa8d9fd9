"""Plain text for the pre-training loss: a folder of JSONL and txt files."""

from pathlib import Path

from kdbench.harness.data.examples import read_objects
from kdbench.harness.errors import InputError
from kdbench.harness.files.store import reading

NEWLINE_MARK = "<@x(x!>"
"""Stands for a newline in MiniLLM's one-document-a-line corpora."""


def load_texts(path: Path | str) -> list[str]:
    """All documents below a folder (or of one file), in the order of file names.

    A ``.jsonl`` file has one object with ``text`` a line; a ``.txt`` file is one document, or, if
    it contains MiniLLM's newline mark, one document a line.

    Raises:
        InputError: nothing there, no documents, or a line without text.
    """
    root = Path(path)
    files = [root]
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.suffix in {".jsonl", ".txt"})
    texts = [text for file in files for text in _read(file) if text.strip()]
    if not texts:
        raise InputError(f"no plain text in {root}; give a folder of .jsonl (text) or .txt files")
    return texts


def _read(file: Path) -> list[str]:
    if file.suffix == ".jsonl":
        texts = []
        for number, row in read_objects(file):
            text = row.get("text")
            if not isinstance(text, str):
                raise InputError(f'{file}:{number} has no text; write one {{"text": …}} a line')
            texts.append(text)
        return texts
    with reading(file, "give .jsonl or .txt files"):
        content = file.read_text(encoding="utf-8")
    if NEWLINE_MARK in content:
        return [line.replace(NEWLINE_MARK, "\n") for line in content.split("\n")]
    return [content]
