"""A bundle into run folders that hold what is in it. It comes from anywhere: nothing is trusted."""

import hashlib
import json
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from kdbench.harness.errors import InputError
from kdbench.harness.files.bundle.columns import Group, Numbers, decode
from kdbench.harness.files.bundle.contents import (
    BLOCK,
    CONTENTS,
    DOCUMENTS,
    FORMAT,
    GROUPS,
    MAX_FILE,
    MAX_HELD,
    MAX_NUMBERS,
    MAX_UNPACKED,
    MEMBERS,
    NUMBERS,
    Contents,
    allowed,
)
from kdbench.harness.files.bundle.digests import digested
from kdbench.harness.files.folders import build_once, cache_folder
from kdbench.harness.files.inside import inside
from kdbench.harness.files.selfcheck import FIELD, checked
from kdbench.harness.files.store import content_hash, make_folder, reading, writing

_ROWS = TypeAdapter(tuple[str, str, str])
_GROUPS = TypeAdapter(list[Group])
_STEP = 2**20
_MEMORY = 2**27
"""Bytes that unpacking itself may take; what kdbench packs takes half of them."""
_UNREADABLE = (
    *(ValueError, KeyError, OverflowError, RecursionError, MemoryError),
    *(tarfile.TarError, lzma.LZMAError),
)
File = tuple[tuple[str, str], bytes]
"""Run and path in its folder, and content."""


def opened(path: Path) -> Path:
    """The folder of runs that a place stands for: itself, or what is in a bundle.

    A bundle is unpacked in the cache, once for its content. What it says of scores is checked against its
    summaries wherever runs are read, like that of any other run.

    Raises:
        InputError: a file that is no bundle, is damaged, or holds what a bundle may not.
    """
    return _unpacked(path) if path.is_file() else path


def _unpacked(path: Path) -> Path:
    if path.stat().st_size > MAX_FILE:
        raise InputError(f"{path} is larger than a bundle may be ({MAX_FILE >> 20} MiB); give runs")
    folder = cache_folder() / "bundles" / content_hash(path)[:32]
    make_folder(folder.parent)

    def build(place: Path) -> None:
        try:
            _write(path, place)
        except OSError:  # of what is written; reading has its own sentence
            with writing(place):
                raise
        except _UNREADABLE as error:
            raise InputError(
                f"{path} is no bundle of runs that can be read ({_short(error)}); give a run folder, a "
                "folder of runs, or a file that kdbench bundle wrote"
            ) from error

    return build_once(folder, build)


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}"
    return str(error) or type(error).__name__


def _write(bundle: Path, place: Path) -> None:
    members = _members(bundle)
    contents = _contents(members.pop(CONTENTS), members)
    runs, left = set(contents.runs), MAX_UNPACKED
    seen: set[tuple[str, str]] = set()
    for (run, name), data in _files(members):
        if run not in runs or not allowed(run, name):
            raise ValueError(f"it holds {run}/{name}, which is no file of its runs")
        if (run, name) in seen:
            raise ValueError(f"it holds {run}/{name} twice")
        seen.add((run, name))
        left -= len(data) + BLOCK
        if left < 0:
            raise ValueError(f"it stands for more than {MAX_UNPACKED >> 30} GiB")
        file = inside(place, f"{run}/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _members(bundle: Path) -> dict[str, bytes]:
    """The files of a bundle: these and no others, in this order, and files they must be."""
    found = {}
    with reading(bundle), tarfile.open(bundle, mode="r:") as tar:
        for expected in MEMBERS:
            member = tar.next()
            most = MAX_HELD if expected == CONTENTS else MAX_FILE
            if member is None or member.name != expected or not _plain(member, most):
                raise ValueError(f"it has no file {expected} in its place")
            data = tar.extractfile(member)
            found[expected] = data.read() if data else b""
        if tar.next() is not None:
            raise ValueError("it holds more than a bundle does")
    return found


def _plain(member: tarfile.TarInfo, most: int) -> bool:
    """Whether it is a file, all of it there: a sparse one may be any size."""
    regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    return regular and member.size <= most


def _contents(data: bytes, members: dict[str, bytes]) -> Contents:
    value = json.loads(data)
    if not isinstance(value, dict) or FIELD not in value:
        raise ValueError(f"{CONTENTS} has no digest")
    if (stated := value.get("format")) != FORMAT:
        raise ValueError(f"format {stated}, this kdbench reads {FORMAT}; upgrade kdbench")
    contents = Contents.model_validate(checked(data, value))
    for name, member in members.items():
        if hashlib.sha256(member).hexdigest() != contents.sha256.get(name):
            raise ValueError(f"{name} is not as it was written")
    return contents


def _files(members: dict[str, bytes]) -> Iterator[File]:
    """What a bundle stands for, a file at a time, none of them monstrous."""
    for line in _lines(members[DOCUMENTS]):
        run, name, text = _ROWS.validate_json(line)
        yield (run, name), digested(name, text).encode()
    numbers = _numbers(_expanded(members[NUMBERS], MAX_NUMBERS))
    start = 0
    for group in _GROUPS.validate_json(_expanded(members[GROUPS], MAX_HELD)):
        if group.numbers < 0 or start + group.numbers > len(numbers):
            raise ValueError("scores end before they should")
        yield from decode(group, numbers[start : start + group.numbers])
        start += group.numbers


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines of an xz file, as they come, as long as none is monstrous."""
    held: list[bytes] = []
    for part in _parts(data):
        begun, *whole = part.split(b"\n")
        held.append(begun)
        if whole:
            yield b"".join(held)
            yield from whole[:-1]
            held = whole[-1:]
        _check_size(sum(map(len, held)), MAX_HELD)
    if rest := b"".join(held):
        yield rest


def _expanded(data: bytes, most: int) -> bytes:
    """Data of an xz file, as long as it is not monstrous."""
    parts, size = [], 0
    for part in _parts(data):
        size += len(part)
        _check_size(size, most)
        parts.append(part)
    return b"".join(parts)


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"a part of it unpacks to more than {most >> 20} MiB")


def _parts(data: bytes) -> Iterator[bytes]:
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)
    while not unpacker.eof:
        part = unpacker.decompress(data, max_length=_STEP)
        data = b""
        if not part and unpacker.needs_input:
            raise ValueError("it is cut short")
        yield part


def _numbers(data: bytes) -> Numbers:
    if len(data) % 2:
        raise ValueError("half a number")
    low, high = np.frombuffer(data, dtype=np.uint8).reshape(2, -1).astype(np.uint16)
    return np.asarray(low | (high << 8), dtype=np.uint16)
