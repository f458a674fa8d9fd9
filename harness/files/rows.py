"""JSONL files that grow for ever and are shared, so that no marker can say what is in them.

Every row carries its digest (`append_rows(..., digests=True)`); damaged rows are taken out by who can
make them again.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from kdbench.harness.files.selfcheck import checked_row
from kdbench.harness.files.store import reading, write_bytes

R = TypeVar("R", bound=BaseModel)


def read_checked(path: Path | str, model: type[R]) -> tuple[list[R], list[int]]:
    """The whole rows of a file with a digest in each, and the numbers of lines that are damaged."""
    if not Path(path).exists():
        return [], []
    with reading(path):
        data = Path(path).read_bytes()
    rows, damaged = [], []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            rows.append(model.model_validate(checked_row(line, json.loads(line))))
        except (ValueError, RecursionError):
            damaged.append(number)
    return rows, damaged


def drop_lines(path: Path | str, numbers: Collection[int]) -> None:
    """Takes lines out of a file, atomically; only for who holds its lock."""
    lines = Path(path).read_bytes().splitlines(keepends=True)
    kept = (line for number, line in enumerate(lines, start=1) if number not in numbers)
    write_bytes(path, b"".join(kept))
