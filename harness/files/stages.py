"""Stages of work, and the markers that say that one is over: ``<stage>.done``."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.harness.files.records import Record
from kdbench.harness.files.store import read_record, sha256_file, write_json


class FileStamp(Record):
    """Content of one output of a stage."""

    sha256: str
    size: int


class StageMarker(Record):
    """``<stage>.done``: what a finished stage left behind."""

    stage: str
    finished: float
    outputs: dict[str, FileStamp]
    info: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of work in a folder: done when its marker exists and its outputs are as it says."""

    folder: Path
    name: str

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.done"

    def done(self, *, check_content: bool = False) -> bool:
        """Whether it finished and its outputs are still there, of the same size.

        Args:
            check_content: also compare every hash (reads all outputs).
        """
        marker = self.marker()
        if marker is None:
            return False
        for name, stamp in marker.outputs.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != stamp.size:
                return False
            if check_content and sha256_file(path) != stamp.sha256:
                return False
        return True

    def marker(self) -> StageMarker | None:
        """What it said when it finished; None before."""
        return read_record(self._file, StageMarker) if self._file.is_file() else None

    def info(self) -> dict[str, Any]:
        """What it said for later stages; empty before it finished."""
        marker = self.marker()
        return marker.info if marker else {}

    def mark(
        self, outputs: Iterable[Path | str] = (), info: Mapping[str, Any] | None = None
    ) -> None:
        """Says that it is done, last of all, with the hash of every output.

        Args:
            outputs: files or folders (all files in them), with or without the folder in front.
            info: what a later stage wants to know (cost, counts).
        """
        stamps = {}
        for output in map(Path, outputs):
            path = output if output.is_relative_to(self.folder) else self.folder / output
            files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for file in files:
                stamp = FileStamp(sha256=sha256_file(file), size=file.stat().st_size)
                stamps[file.relative_to(self.folder).as_posix()] = stamp
        said = {"stage": self.name, "finished": time.time(), "outputs": stamps}
        write_json(self._file, StageMarker(**said, info=dict(info or {})))

    def unmark(self) -> None:
        """Forgets that it is done, before its outputs are changed."""
        self._file.unlink(missing_ok=True)
