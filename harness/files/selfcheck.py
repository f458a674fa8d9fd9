"""Documents and rows that say what they should be: the last field is the hash of all the rest.

The hash is of bytes, not of what they mean, so that no byte of a document can change unseen: 64 hex
digits of sha256 over the document in which these digits are zeros (a row: the first 16 of them).
What has no such field is of somebody else's hand, or of a kdbench before 2026-12: it is taken as it is.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

FIELD = "digest"
_DIGITS, _ROW_DIGITS = 64, 16
_END, _ROW_END = b'"\n}\n', b'"}'
# a digest by its shape: the field's own name may be what a flipped bit changed
_SHAPE = re.compile(rb'\n  "[^\n]{1,8}": "[0-9a-f]{64}"\n\}\n\Z')
_ROW_SHAPE = re.compile(rb', "[^\n]{1,8}": "[0-9a-f]{16}"\}\Z')


def with_digest(value: Mapping[str, Any]) -> str:
    """A JSON document of two-space indents, keys in given order, with its digest as the last field.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    whole = {**value, FIELD: "0" * _DIGITS}
    text = json.dumps(whole, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return _filled(text.encode(), _DIGITS, _END).decode()


def row_with_digest(value: Mapping[str, Any]) -> bytes:
    """One line of JSON, without its end, with its digest as the last field."""
    whole = {**value, FIELD: "0" * _ROW_DIGITS}
    line = json.dumps(whole, allow_nan=False, ensure_ascii=False).encode()
    return _filled(line, _ROW_DIGITS, _ROW_END)


def checked(data: bytes, value: Any) -> Any:
    """What a document says, without its digest; the value itself where it has none.

    Args:
        data: the document.
        value: the same, parsed.

    Raises:
        ValueError: it is not what its digest says.
    """
    return _checked(data, value, _DIGITS, _END, _SHAPE)


def checked_row(line: bytes, value: Any) -> Any:
    """`checked` of one line, without its end."""
    return _checked(line, value, _ROW_DIGITS, _ROW_END, _ROW_SHAPE)


def _checked(data: bytes, value: Any, digits: int, end: bytes, shape: re.Pattern[bytes]) -> Any:
    if not isinstance(value, dict):
        return value
    if next(reversed(value), None) != FIELD:  # anywhere else it is a field of somebody else's
        if shape.search(data[-digits - 40 :]):
            raise ValueError("its digest has lost its name")
        return value
    said = value[FIELD]
    if not isinstance(said, str) or data != _filled(data, digits, end, said.encode()):
        raise ValueError("its content does not match its digest")
    return {name: each for name, each in value.items() if name != FIELD}


def _filled(data: bytes, digits: int, end: bytes, said: bytes = b"") -> bytes:
    """The bytes with their digest in its place, if ``said`` stands there already or nothing was said."""
    head, there, tail = data[: -digits - len(end)], data[-digits - len(end) : -len(end)], end
    if said and said != there:
        return b""
    blank = head + b"0" * digits + tail
    return head + hashlib.sha256(blank).hexdigest()[:digits].encode() + tail
