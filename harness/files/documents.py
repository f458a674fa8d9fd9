"""What folders are made of: documents that are read and written whole, and stages of work."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from kdbench.harness.files.store import (
    StageMarker,
    is_done,
    mark_done,
    read_marker,
    read_record,
    unmark,
    write_json,
)

R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Document(Generic[R]):
    """One JSON document of a folder, read and written whole."""

    path: Path
    model: type[R]

    def exists(self) -> bool:
        """Whether it was written."""
        return self.path.is_file()

    def read(self) -> R:
        """The document; an InputError names the file and the field."""
        return read_record(self.path, self.model)

    def find(self) -> R | None:
        """The document, or None if it was not written."""
        return self.read() if self.exists() else None

    def write(self, value: R) -> None:
        """Replaces the document, atomically."""
        write_json(self.path, value)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of work in a folder: done when its marker exists and its outputs are as it says."""

    folder: Path
    name: str

    def done(self) -> bool:
        """Whether it finished and left its outputs in place."""
        return is_done(self.folder, self.name)

    def marker(self) -> StageMarker | None:
        """What it said when it finished; None before."""
        return read_marker(self.folder, self.name)

    def info(self) -> dict[str, Any]:
        """What it said for later stages; empty before it finished."""
        marker = self.marker()
        return marker.info if marker else {}

    def mark(self, outputs: Iterable[Path | str], info: Mapping[str, Any] | None = None) -> None:
        """Says that it is done: hashes of its outputs, and ``info``; last of all."""
        mark_done(self.folder, self.name, outputs, info)

    def unmark(self) -> None:
        """Forgets that it is done, before its outputs are changed."""
        unmark(self.folder, self.name)
