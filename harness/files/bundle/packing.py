"""Run folders into one bundle. The same runs give the same bytes, wherever and in whatever order they lie."""

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.harness.errors import InputError
from kdbench.harness.files.bundle import columns
from kdbench.harness.files.bundle.columns import Group, Numbers, Table
from kdbench.harness.files.bundle.contents import (
    CONTENTS,
    DOCUMENTS,
    FORMAT,
    GROUPS,
    NUMBERS,
    Contents,
)
from kdbench.harness.files.bundle.digests import undigested
from kdbench.harness.files.placeless import command
from kdbench.harness.files.records import LeftOut, LeftOutFiles
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.selfcheck import FIELD, with_digest
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import reading, write_bytes

Answers = Mapping[Path, bytes]
"""Some lines of files of answers, by file."""
_Files = dict[str, bytes]
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
# of numbers: pairs of planes of bytes, no text; what came before says little, where it stands nothing
_NUMBER_FILTERS = [{**_FILTERS[0], "lc": 0, "lp": 0, "pb": 0}]


def pack(runs: Sequence[RunFolder], out: Path, answers: Answers) -> int:
    """Writes a bundle; returns its size in bytes.

    Args:
        runs: finished runs.
        out: the file, which is replaced.
        answers: lines of answers to keep; all others are left out.

    Raises:
        InputError: two runs of one name, or a file that cannot be read or written.
    """
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"two runs are called {twice[0]}; a bundle holds a run once: name one folder"
        )
    documents: list[tuple[str, str, str]] = []
    alike: dict[tuple[tuple[str, ...], int], list[tuple[tuple[str, str], Table]]] = {}
    for run in sorted(runs, key=lambda run: run.name):
        for path, data in _files(run, answers).items():
            table = columns.take_apart(data) if path.endswith("/scores.jsonl") else None
            if table is None:
                documents.append((run.name, path, undigested(path, data.decode())))
            else:
                key = table.skeleton, table.answers
                alike.setdefault(key, []).append(((run.name, path), table))
    groups, numbers = _groups(alike)
    documents.sort(key=lambda row: (row[1].rpartition("/")[2], row[1], row[0]))
    rows = [json.dumps(list(row), ensure_ascii=False) + "\n" for row in documents]
    members = {
        DOCUMENTS: _squeezed("".join(rows).encode(), _FILTERS),
        GROUPS: _squeezed(_json([group.model_dump() for group in groups]), _FILTERS),
        NUMBERS: _squeezed(_planes(numbers), _NUMBER_FILTERS),
    }
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    contents = Contents(format=FORMAT, runs=sorted(names), sha256=sums)
    whole = _tar({CONTENTS: with_digest(contents.model_dump()).encode(), **members})
    write_bytes(out, whole)
    return len(whole)


def _files(run: RunFolder, answers: Answers) -> _Files:
    """What a bundle holds of a run, by path in its folder."""
    paths = [run.config.path, run.identity.path, run.prepare.path]
    paths += [run.summary.path, run.manifest.path]
    for evaluation in run.evaluations():
        paths += [evaluation.record.path, evaluation.scores_file]
    found = {}
    for path in paths:
        if path.is_file():
            with reading(path):
                found[path.relative_to(run.path).as_posix()] = path.read_bytes()
    manifest = run.manifest.path.name
    if manifest in found:
        found[manifest] = _anywhere(found[manifest])
    for path, lines in answers.items():
        if path.is_relative_to(run.path):
            found[path.relative_to(run.path).as_posix()] = lines
    left_out = run.left_out.find() or LeftOut(what=_left_out(run))
    found[run.left_out.path.name] = with_digest(left_out.model_dump()).encode()
    return found


def _anywhere(manifest: bytes) -> bytes:
    """A manifest whose command names no folder of the machine that it was made on."""
    value = json.loads(manifest)
    if not isinstance(value, dict) or not isinstance(value.get("argv"), list) or FIELD not in value:
        return manifest
    value.pop(FIELD)
    return with_digest(value | {"argv": command(list(map(str, value["argv"])))}).encode()


def _left_out(run: RunFolder) -> dict[str, LeftOutFiles]:
    """What the bundle does not hold: the student and the answers, as their stages' markers have them."""
    stages = {
        "student": [run.training.stage],
        "answers": [evaluation.generated for evaluation in run.evaluations()],
    }
    found = {name: _described(run, several) for name, several in stages.items()}
    return {name: described for name, described in found.items() if described.files}


def _described(run: RunFolder, stages: Sequence[Stage]) -> LeftOutFiles:
    stamps = {
        (stage.folder / name).relative_to(run.path).as_posix(): (stamp.sha256, stamp.size)
        for stage in stages
        if (marker := stage.marker()) is not None
        for name, stamp in marker.outputs.items()
    }
    return LeftOutFiles(
        files=len(stamps),
        size=sum(size for _, size in stamps.values()),
        sha256=hashlib.sha256(_json(sorted(stamps.items()))).hexdigest(),
    )


def _groups(
    alike: Mapping[Any, Sequence[tuple[tuple[str, str], Table]]],
) -> tuple[list[Group], Numbers]:
    made = []
    for several in alike.values():
        files, tables = zip(*several, strict=True)
        made.append(columns.encode(files, tables))
    numbers = [found for _, found in made] or [np.zeros(0, dtype=np.uint16)]
    return [group for group, _ in made], np.concatenate(numbers)


def _planes(numbers: Numbers) -> bytes:
    """All low bytes, then all high ones, which are mostly 0."""
    return (numbers & 0xFF).astype(np.uint8).tobytes() + (numbers >> 8).astype(np.uint8).tobytes()


def _squeezed(data: bytes, filters: list[dict[str, Any]]) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _tar(members: Mapping[str, bytes]) -> bytes:
    """A tar without owners and times."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return whole.getvalue()
