"""How rows are named: a file, a folder, or a data set of the hub, with its configuration and split.

``own/train.jsonl``, ``own/saved:validation``, ``user/name``, ``user/name:config:split`` (either part may
be empty). Names without a slash and without an ending of `ENDINGS` are names of data sets of ours.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""Of files that hold rows."""

PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Endings of packed files, and how they are packed."""

_PART = r"[\w.+-]*"
_NAMED = re.compile(rf"(?P<place>.+?)(?::(?P<one>{_PART}))(?::(?P<two>{_PART}))?$", re.DOTALL)


class Place(NamedTuple):
    """Where rows are.

    Attributes:
        path: of a file or folder; of the hub, the data set's id.
        config: of a data set of the hub; empty: its only one.
        split: as given; empty: the one that fits what the rows are for.
        hub: whether it is none of this machine's.
    """

    path: str
    config: str = ""
    split: str = ""
    hub: bool = False


def ending(path: str) -> tuple[str, str]:
    """``.jsonl`` and ``.gz`` of ``rows.jsonl.gz``, in lower case; empty where there is none of ours."""
    name = Path(path).name.lower()
    packed = next((end for end in PACKED if name.endswith(end)), "")
    name = name.removesuffix(packed)
    return next((end for end in ENDINGS if name.endswith(end)), ""), packed


def stem(place: str) -> str:
    """What a place is called: its last part without endings, configuration and split."""
    path = place_of(place).path
    kind, packed = ending(path)
    name = Path(path.rstrip("/")).name
    return name[: len(name) - len(kind) - len(packed)] if kind else name


def is_place(text: str) -> bool:
    """Whether a name says where rows are, rather than which data set of ours is meant."""
    return "/" in text or os.sep in text or bool(ending(place_of(text).path)[0])


def place_of(text: str) -> Place:
    """A name in its parts. A file or folder of this machine goes before a data set of the hub."""
    if os.path.exists(text):
        return Place(text)
    found = _NAMED.match(text)
    path, one, two = (found["place"], found["one"], found["two"]) if found else (text, "", None)
    if os.path.exists(path) or ending(path)[0] or _local(path):
        return Place(path, "", two or one or "")
    return Place(path, one or "", two or "", hub=True)


def from_anywhere(text: str) -> str:
    """The same place, its path made absolute if it is on this machine."""
    place = place_of(text)
    if place.hub:
        return text
    return os.path.abspath(place.path) + (f":{place.split}" if place.split else "")


def _local(path: str) -> bool:
    """Whether a path that does not exist can be none of the hub's, whose ids have two parts."""
    return (
        path.startswith((".", "/", "~")) or path.count("/") != 1 or os.path.isdir(Path(path).parent)
    )
