"""JSONL files that grow for ever and are shared, so that no marker can say what is in them.

Every row carries its digest (`append_rows(..., digests=True)`); damaged rows are taken out by who can
make them again.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from kdbench.harness.files.selfcheck import checked_row
from kdbench.harness.files.store import reading, write_bytes

R = TypeVar("R", bound=BaseModel)


class Place(NamedTuple):
    """How far a file was read: which file it was, and the byte behind its last whole line."""

    inode: int = 0
    offset: int = 0


def read_checked(path: Path | str, model: type[R]) -> tuple[list[R], list[int]]:
    """The whole rows of a file with a digest in each, and the numbers of lines that are damaged."""
    rows, damaged, _ = read_on(path, model, Place())
    return rows, damaged


def read_on(path: Path | str, model: type[R], place: Place) -> tuple[list[R], list[int], Place]:
    """As `read_checked`, of the lines behind a place; also says how far it is read now.

    From the beginning if the file is another by now: who takes lines out writes a new one. Numbers of
    damaged lines count from the place.
    """
    if not Path(path).exists():
        return [], [], Place()
    with reading(path), open(path, "rb") as file:
        inode = os.fstat(file.fileno()).st_ino
        begin = place.offset if inode == place.inode else 0
        file.seek(begin)
        data = file.read()
    rows, damaged = [], []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            rows.append(model.model_validate(checked_row(line, json.loads(line))))
        except (ValueError, RecursionError):
            damaged.append(number)
    return rows, damaged, Place(inode, begin + data.rfind(b"\n") + 1)


def drop_lines(path: Path | str, numbers: Collection[int]) -> None:
    """Takes lines out of a file, atomically; only for who holds its lock."""
    lines = Path(path).read_bytes().splitlines(keepends=True)
    kept = (line for number, line in enumerate(lines, start=1) if number not in numbers)
    write_bytes(path, b"".join(kept))
