"""What a file or a list of rows hashes to; runs are identified by content, never by path."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from kdbench.harness.data.examples import Example


@dataclass(frozen=True, slots=True)
class FileFingerprint:
    """Content of one data file: hex sha256 of its bytes and its number of non-blank lines."""

    path: str
    sha256: str
    rows: int


def file_fingerprint(path: Path | str) -> FileFingerprint:
    """Hashes and counts a file.

    Raises:
        OSError: it cannot be read (callers have located it before).
    """
    digest, rows = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for line in file:
            digest.update(line)
            rows += bool(line.strip())
    return FileFingerprint(path=str(path), sha256=digest.hexdigest(), rows=rows)


def examples_sha256(examples: Iterable[Example]) -> str:
    """Hex sha256 of the rows themselves: the same for a file, its copy on the hub and generated
    rows, whatever the key order and spacing.
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
