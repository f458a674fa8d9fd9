"""Markers of finished stages: what a stage left behind, and whether it is still that.

Wherever a stage's output becomes an input, `Stage.done` stands before it, and it reads every output.
What is damaged is a `Damaged` error with the remedy; whoever can make the output again passes `heal`
and gets a line and "not done" instead.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.harness.errors import Damaged
from kdbench.harness.files.inside import inside
from kdbench.harness.files.records import Record
from kdbench.harness.files.store import Say, content_hash, healing, read_record, write_json


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
    remedy: str = ""
    """What to do if its outputs are damaged, without a full stop."""

    @property
    def file(self) -> Path:
        """Its marker."""
        return inside(self.folder, f"{self.name}.done")

    def done(self, heal: Say | None = None) -> bool:
        """Whether it finished; every output is then what it left, byte by byte.

        Outputs that were read before by this process, and did not change, are not read again.

        Args:
            heal: given by who can make the outputs again: told of damage, after which the stage is
                not done.

        Raises:
            Damaged: the marker or an output is not as it was written, and nobody heals it.
        """
        try:
            marker = self.marker()
            for name, stamp in marker.outputs.items() if marker else ():
                path = inside(self.folder, name)
                if problem := changed(path, stamp):
                    raise Damaged(f"{path} {problem}{self.remedy and f'; {self.remedy}'}")
        except Damaged as damage:
            if heal is None:
                raise
            heal(healing(damage))
            self.unmark()
            return False
        return marker is not None

    def marked(self) -> bool:
        """Whether it says that it finished: for listings, which use no output. Reads the marker only."""
        marker = self.marker()
        return marker is not None and all(
            inside(self.folder, name).is_file() for name in marker.outputs
        )

    def marker(self) -> StageMarker | None:
        """What it said when it finished; None before."""
        return read_record(self.file, StageMarker, self.remedy) if self.file.is_file() else None

    def info(self) -> dict[str, Any]:
        """What it said for later stages; empty before it finished."""
        marker = self.marker()
        return marker.info if marker else {}

    def mark(
        self,
        outputs: Iterable[Path | str] = (),
        info: Mapping[str, Any] | None = None,
        *,
        finished: float | None = None,
    ) -> None:
        """Says that it is done, last of all, with the hash of every output.

        Args:
            outputs: files or folders (all files in them), with or without the folder in front.
            info: what a later stage wants to know (cost, counts).
            finished: when it was done, if not now.
        """
        stamps = {}
        for output in map(Path, outputs):
            path = output if output.is_relative_to(self.folder) else self.folder / output
            files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for file in files:
                stamp = FileStamp(sha256=content_hash(file), size=file.stat().st_size)
                stamps[file.relative_to(self.folder).as_posix()] = stamp
        said = {"stage": self.name, "finished": finished or time.time(), "outputs": stamps}
        write_json(self.file, StageMarker(**said, info=dict(info or {})))

    def unmark(self) -> None:
        """Forgets that it is done, before its outputs are changed."""
        self.file.unlink(missing_ok=True)


def changed(path: Path, stamp: FileStamp) -> str:
    """How a file differs from its stamp, as the end of a sentence; empty: it is the same."""
    if not path.is_file():
        return "is gone"
    if (size := path.stat().st_size) != stamp.size:
        return f"is not as it was written ({size} bytes instead of {stamp.size})"
    if content_hash(path) != stamp.sha256:
        return "is not as it was written (its content changed)"
    return ""
