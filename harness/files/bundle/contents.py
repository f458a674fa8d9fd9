"""What is in a bundle, and how much may be."""

import re

from kdbench.harness.files.records import Record

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
"""Bytes of each part of it, and of all files that it stands for."""

RUN = re.compile(r"\w[\w.@+=,-]{0,250}")
"""A run's name: one part of a path."""
FILE = re.compile(
    r"(config|identity|prepare|summary|manifest|left-out)\.json"
    r"|eval/\w[\w.@+=,-]{0,250}/(evaluation\.json|scores\.jsonl|samples\.seed-?\d{1,20}\.jsonl)"
)
"""A file of a run that a bundle may hold."""


class Contents(Record):
    """``bundle.json``."""

    format: int
    runs: list[str]
    sha256: dict[str, str]
    """Of the other files."""
