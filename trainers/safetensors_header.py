"""The header of a safetensors file: names, types and shapes of its tensors; and whether it is whole.

The format (github.com/huggingface/safetensors): eight bytes of length, little-endian, a JSON object of
that length, then the values. The library's own reader checks the same; what it says does not tell a
person that a download was cut.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.foreign import foreign

POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST = 100_000_000
"""Bytes of a header that the library reads."""
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip
AGAIN = "download or copy it again"


class Stored(NamedTuple):
    """One tensor of a file."""

    dtype: str
    """As the format calls it: ``F32``, ``BF16``, …"""
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name.

    Raises:
        InputError: no such file, a pointer to one, cut, damaged, or values of a type that is no weight's.
    """
    if not file.is_file():
        raise InputError(f"{file} is not a file, or a link to none; {AGAIN}")
    with foreign(f"cannot read {file}", AGAIN), file.open("rb") as opened:
        size = file.stat().st_size
        begin = opened.read(len(POINTER))
        if begin == POINTER:
            raise InputError(
                f"{file} is a git-lfs pointer, not the weights it stands for; run git lfs pull in "
                f"{file.parent}, or download the file itself"
            )
        length = int.from_bytes(begin[:8], "little")
        if size < 10 or (length <= LONGEST and size < 8 + length):
            raise InputError(f"{file} is cut short ({size:,} bytes, not even its header); {AGAIN}")
        if length > LONGEST:
            raise InputError(
                f"{file} is not a safetensors file, or its beginning is damaged; {AGAIN}"
            )
        opened.seek(8)
        text = opened.read(length)
    header = _parsed(text, file)
    tensors = {
        name: _stored(name, entry, file) for name, entry in header.items() if name != "__metadata__"
    }
    _check_size(header, size - 8 - length, file)
    _check_tail(header, 8 + length, file)
    return tensors


def _parsed(text: bytes, file: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise InputError(f"the header of {file} names a tensor twice; {AGAIN}")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the header of {file} is damaged ({error}); {AGAIN}") from error
    if not isinstance(header, dict):
        raise InputError(f"the header of {file} is damaged (no JSON object); {AGAIN}")
    return header


def _stored(name: str, entry: Any, file: Path) -> Stored:
    """One entry, its bytes as many as its shape asks for."""
    with foreign(f"the header of {file} is damaged at tensor {name!r}", AGAIN):
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, first, last)) or last < first:
            raise ValueError("sizes are not whole numbers")
        if dtype not in BITS:
            raise InputError(
                f"tensor {name} of {file} has values of type {dtype}, as quantised weights do; give the "
                "model it was made from, in float32, bfloat16 or float16"
            )
        if (last - first) * 8 != math.prod(shape) * BITS[dtype]:
            raise ValueError("its bytes are not as many as its shape asks for")
    return Stored(dtype, shape)


def _check_size(header: dict[str, Any], there: int, file: Path) -> None:
    """The file holds the bytes that its header promises, without gap or overlap."""
    spans = sorted(e["data_offsets"] for name, e in header.items() if name != "__metadata__")
    promised = spans[-1][1] if spans else 0
    if there < promised:
        raise InputError(
            f"{file} is cut short: its header promises {promised:,} bytes of weights, but {there:,} are "
            f"there; {AGAIN}"
        )
    ends = [0, *(last for _, last in spans)]
    if there > promised or any(first != end for (first, _), end in zip(spans, ends, strict=False)):
        raise InputError(
            f"{file} is damaged: its header does not describe all of its bytes; {AGAIN}"
        )


def _check_tail(header: dict[str, Any], start: int, file: Path) -> None:
    """A file whose last tensors, a matrix among them, are zeros was made room for and never filled."""
    entries = [
        (entry["data_offsets"], name) for name, entry in header.items() if name != "__metadata__"
    ]
    with foreign(f"cannot read {file}", AGAIN), file.open("rb") as opened:
        for (first, last), name in sorted(entries, reverse=True):
            opened.seek(start + first)
            left = last - first
            while left > 0:
                part = opened.read(min(left, 1 << 20))
                if any(part) or not part:
                    return
                left -= len(part)
            if math.prod(header[name]["shape"]) > 1 and len(header[name]["shape"]) > 1:
                raise InputError(
                    f"{file} ends in zeros, tensor {name} and what follows it, as a download does that "
                    f"was broken off; {AGAIN}"
                )
