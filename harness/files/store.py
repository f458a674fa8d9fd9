"""Files that survive a kill: atomic writes, append-only JSONL, markers of finished stages.

Rules every stage relies on:

* A file under its final name is whole: it was written to a temporary name, flushed and renamed.
* A JSONL file grows by whole batches in one write; what a kill leaves is a torn last line, which is
  cut on load and on the next append. Lines before it are good. A batch may have been written in
  part, line-wise whole: whoever needs batches whole counts rows and calls `keep_rows`.

Every failed write is an `InputError` of one sentence: a full disk or a read-only folder is the
user's to mend. The lock of a run folder is in `kdbench.harness.files.locks`, whole folders that appear at
once in `kdbench.harness.files.folders`.
"""

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from kdbench.harness.errors import InputError, unfit, unknown
from kdbench.harness.files.inside import inside
from kdbench.harness.files.owners import temporary
from kdbench.harness.files.records import Record

Row = Mapping[str, Any] | BaseModel
R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turns an OSError raised while writing ``path`` into an InputError of one sentence."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"cannot write {path}: {reason}; choose a writable place or free some space"
        ) from error


@contextlib.contextmanager
def reading(what: Path | str, remedy: str = "") -> Iterator[None]:
    """Turns what fails while ``what`` is read as UTF-8 into an InputError of one sentence."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cannot read {what}: {reason}{remedy and f'; {remedy}'}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8; save it as UTF-8") from error


def make_folder(path: Path | str) -> Path:
    """Creates ``path`` and its parents if needed and returns it.

    Raises:
        InputError: it cannot be created, is a file, or cannot be written.
    """
    folder = Path(path)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {folder}: permission denied; choose a writable place")
    return folder


def write_bytes(path: Path | str, data: bytes, scratch: Path | None = None) -> None:
    """Writes ``data`` atomically: temporary name, fsync, rename.

    Args:
        path: where to.
        data: the whole content.
        scratch: a folder of the same disk for the temporary file, which a kill may leave there until
            the next sweep; None: beside ``path``.
    """
    target = Path(path)
    make_folder(target.parent)
    # not tempfile.mkstemp: its files are private, and a run folder is there for colleagues to read
    unfinished = temporary(target, scratch)
    with writing(target):
        try:
            with open(unfinished, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_path(target.parent)


def write_text(path: Path | str, text: str, scratch: Path | None = None) -> None:
    """Writes ``text`` as UTF-8, atomically; see `write_bytes`."""
    write_bytes(path, text.encode(), scratch)


def write_json(path: Path | str, value: Any) -> None:
    """Writes a JSON document (a pydantic model or plain data), atomically, keys in given order.

    Raises:
        ValueError: a number is NaN or infinite; such a value is `Missing`, with a reason.
    """
    write_text(
        path, json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    )


def read_json(path: Path | str) -> Any:
    """Reads a JSON document.

    Raises:
        InputError: no such file, or not JSON.
    """
    with reading(path):
        text = Path(path).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def read_record(path: Path | str, model: type[R]) -> R:
    """Reads a JSON document as ``model``; an InputError names file and field."""
    return validated(model, read_json(path), path)


def validated(model: type[R], value: Any, where: object, whole: str = "document") -> R:
    """Plain data as ``model``; else an InputError names where it is from, and the field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            name = str(problem["loc"][0])
            raise unknown("field", name, model.model_fields, f" in {where}") from error
        raise unfit(where, error, whole) from error


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

    def write(self, value: BaseModel) -> None:
        """Replaces the document, atomically."""
        write_json(self.path, value)


def append_rows(path: Path | str, rows: Iterable[Row]) -> None:
    """Appends ``rows`` as JSON lines in one write, flushed; a torn last line is cut first."""
    data = b"".join(
        json.dumps(_plain(row), allow_nan=False, ensure_ascii=False).encode() + b"\n"
        for row in rows
    )
    target = Path(path)
    make_folder(target.parent)
    with writing(target), open(target, "a+b", buffering=0, opener=_no_link) as file:
        _cut_torn_line(file.fileno())
        written = 0
        while written < len(data):  # one call in practice; a short write is legal
            written += os.write(file.fileno(), data[written:])
        os.fsync(file.fileno())


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """All whole rows of a JSONL file we wrote; empty if there is no file. The file is not changed.

    Raises:
        InputError: a line other than a torn last one is not a JSON object.
    """
    if not Path(path).exists():
        return []
    with reading(path):
        data = Path(path).read_bytes()
    return [row for _, row in objects(data[: data.rfind(b"\n") + 1], path)]


def objects(data: bytes, path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for every non-blank line of JSON Lines.

    Args:
        data: the lines.
        path: their file, for errors.

    Raises:
        InputError: a line is no UTF-8, no JSON, or no JSON object.
    """
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            raise InputError(f"{where} is not UTF-8; save the file as UTF-8") from error
        except (ValueError, RecursionError) as error:
            detail = str(error)
            if isinstance(error, json.JSONDecodeError):
                detail = f"{error.msg} at column {error.colno}"
            raise InputError(
                f"{where} is not valid JSON ({detail}); fix or remove that line"
            ) from error
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise InputError(f"{where} is a JSON {kind}, not an object; write one object a line")
        yield number, row


def read_records(path: Path | str, model: type[R]) -> list[R]:
    """All whole rows of a JSONL file as ``model``; an InputError names the file and the row."""
    rows = enumerate(read_rows(path), start=1)
    return [validated(model, row, f"{path}:{number}") for number, row in rows]


def keep_rows(path: Path | str, count: int) -> None:
    """Cuts a JSONL file on disk to its first ``count`` rows (a batch that a kill left in part)."""
    target = Path(path)
    if not target.exists():
        return
    with writing(target), open(target, "r+b", opener=_no_link) as file:
        for _ in range(count):
            if not file.readline().endswith(b"\n"):
                raise ValueError(f"{target} has fewer than {count} rows")
        file.truncate(file.tell())
        os.fsync(file.fileno())


def keep_batches(path: Path | str, rows: Sequence[T], expected: int, batch: int) -> list[T]:
    """Cuts a JSONL file, and its rows, to whole batches; the last of ``expected`` may be shorter."""
    whole = len(rows) if len(rows) == expected else len(rows) // batch * batch
    if whole < len(rows):
        keep_rows(path, whole)
    return list(rows[:whole])


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: Path | str) -> str:
    """`sha256_file`, remembered for as long as size and time of change stay the same."""
    state = os.stat(path)
    return _content_hash(os.path.abspath(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=16384)
def _content_hash(path: str, size: int, changed: int) -> str:
    return sha256_file(path)


def sync_path(path: Path) -> None:
    """Flushes a file, or a folder's renames, to disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _no_link(path: str, flags: int) -> int:
    """Opens a file that grows in place, and never what a link there points to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _cut_torn_line(descriptor: int) -> None:
    """Truncates the open file to its last newline."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


# -- stages ---------------------------------------------------------------------------------------


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
        return inside(self.folder, f"{self.name}.done")

    def done(self, *, check_content: bool = False) -> bool:
        """Whether it finished and its outputs are still there, of the same size.

        Args:
            check_content: also compare every hash (reads all outputs).
        """
        marker = self.marker()
        if marker is None:
            return False
        for name, stamp in marker.outputs.items():
            path = inside(self.folder, name)
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
