"""Digests of documents are left out of a bundle: they follow from the rest, and no compressor can guess them.

What was changed on the way is found by the digest of the bundle's part all the same.
"""

import json
from typing import Any

from kdbench.harness.files.bundle.contents import MAX_HELD
from kdbench.harness.files.selfcheck import FIELD, with_digest

_LEFT_OUT = "}\0"
"""The end of a document whose digest is left out."""


def undigested(name: str, text: str) -> str:
    """A document of a run as a bundle stores it: without its digest, if it can be made again."""
    if not name.endswith(".json"):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict) or FIELD not in value:
        return text
    value.pop(FIELD)
    short = json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\0"
    return short if digested(name, short) == text else text


def digested(name: str, text: str) -> str:
    """A document as it was, from what `undigested` made of it.

    Raises:
        ValueError: it was not made by that, or would be monstrous.
    """
    if not name.endswith(".json") or not text.endswith(_LEFT_OUT):
        return text
    value = json.loads(text[:-1])
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no document")
    if _indents(value, 1) > MAX_HELD:
        raise ValueError(f"{name} is nested too deeply")
    return with_digest(value)


def _indents(value: Any, depth: int) -> int:
    """Characters that a document grows by when it is written one value a line."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return (len(value) + 1) * (2 * depth + 1) + sum(_indents(each, depth + 1) for each in inner)
