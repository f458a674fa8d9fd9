"""What is in a bundle, and how much may be."""

import re

from kdbench.harness.files.records import Record
from kdbench.harness.files.reported import LONGEST, PART

FORMAT = 1
CONTENTS, DOCUMENTS, GROUPS, NUMBERS = (
    "bundle.json",
    "documents.jsonl.xz",
    "scores.json.xz",
    "scores.bin.xz",
)
MEMBERS = (CONTENTS, DOCUMENTS, GROUPS, NUMBERS)
"""In this order."""

MAX_FILE = 256 * 2**20
"""Bytes of a bundle."""
MAX_UNPACKED = 4 * 2**30
"""Bytes on disk of all files that it stands for, each a block at least."""
BLOCK = 4096
MAX_HELD = 64 * 2**20
"""Bytes of whatever is held at once: a file, a part of the bundle."""
MAX_NUMBERS = 4 * MAX_HELD
"""The same of the numbers, which take no more room in memory."""
MAX_VALUES = 2**22
"""Different values of all prompts of a group."""
MAX_PLACES = 64
"""Numbers an answer, of so many values; of fewer values more."""
MAX_DIGITS = 40
"""Characters of one value: kdbench writes 24, and of a whole number 31."""

RUN = re.compile(r"\w[\w.@+=,-]{0,250}")
"""A run's name: one part of a path."""
FILE = re.compile(
    r"(config|identity|prepare|summary|manifest|left-out)\.json"
    rf"|eval/{PART}/(evaluation\.json|scores\.jsonl|samples\.seed-?\d{{1,20}}\.jsonl)"
)
"""A file of a run that a bundle may hold."""


def allowed(run: str, name: str) -> bool:
    """Whether a bundle may hold this file of a run; no part of its path is too long for a disk."""
    short = all(len(part.encode()) <= LONGEST for part in (run, *name.split("/")))
    return short and bool(RUN.fullmatch(run) and FILE.fullmatch(name))


class Contents(Record):
    """``bundle.json``."""

    format: int
    runs: list[str]
    sha256: dict[str, str]
    """Of the other files."""
