"""Files that survive a kill: atomic writes, append-only JSONL, documents that know their digest.

Rules every stage relies on:

* A file under its final name is whole: it was written to a temporary name, flushed and renamed.
* A JSON document carries its digest (`kdbench.harness.files.selfcheck`) and is checked whenever it is read.
* A JSONL file grows by whole batches in one write; what a kill leaves is a torn last line, which is
  cut on load and on the next append. Lines before it are good. A batch may have been written in
  part, line-wise whole: whoever needs batches whole counts rows and calls `keep_rows`.

Every failed write is an `InputError` of one sentence: a full disk or a read-only folder is the
user's to mend. Markers of finished stages are in `kdbench.harness.files.stages`, the lock of a run
folder in `kdbench.harness.files.locks`, whole folders that appear at once in
`kdbench.harness.files.folders`.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from kdbench.harness.errors import Damaged, InputError, unfit, unknown
from kdbench.harness.files.owners import sweep, temporary
from kdbench.harness.files.selfcheck import checked, checked_row, row_with_digest, with_digest

Say = Callable[[str], None]
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

    What dead processes left half-written in it goes, the first time that this one asks.

    Raises:
        InputError: it cannot be created, is a file, or cannot be written.
    """
    folder = Path(path)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {folder}: permission denied; choose a writable place")
    _sweep_once(os.getpid(), os.path.abspath(folder))
    return folder


@lru_cache(maxsize=4096)
def _sweep_once(process: int, folder: str) -> None:
    sweep(folder, deep=False)


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


def write_json(path: Path | str, value: BaseModel | Mapping[str, Any]) -> None:
    """Writes a JSON document with its digest, atomically, keys in given order.

    Raises:
        ValueError: a number is NaN or infinite; such a value is `Missing`, with a reason.
    """
    write_text(path, with_digest(_plain(value)))


def read_json(path: Path | str, remedy: str = "") -> Any:
    """Reads a JSON document; one with a digest is what was written, byte by byte.

    Args:
        path: the document.
        remedy: what to do about a damaged one, without a full stop.

    Raises:
        InputError: no such file.
        Damaged: not UTF-8, not JSON, or not what its digest says.
    """
    with reading(path):
        data = Path(path).read_bytes()
    help_ = remedy and f"; {remedy}"
    try:
        value = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is not UTF-8{help_ or '; save it as UTF-8'}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not valid JSON: {error}{help_}") from error
    try:
        return checked(data, value)
    except ValueError as error:
        raise Damaged(f"{path} is not as it was written ({error}){help_}") from error


def read_record(path: Path | str, model: type[R], remedy: str = "") -> R:
    """Reads a JSON document as ``model``; an InputError names file and field. See `read_json`."""
    return validated(model, read_json(path, remedy), path)


def validated(model: type[R], value: Any, where: object, whole: str = "document") -> R:
    """Plain data as ``model``; else an InputError names where it is from, and the field."""
    try:
        return model.model_validate(value)
    except (RecursionError, OverflowError) as error:
        raise InputError(
            f"{where}: nested too deeply, or a number too large, for a {whole}"
        ) from error
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
    remedy: str = ""
    """What to do if it is damaged, without a full stop."""

    def exists(self) -> bool:
        """Whether it was written."""
        return self.path.is_file()

    def read(self) -> R:
        """The document; an InputError names the file and the field.

        Raises:
            Damaged: it is not as it was written.
        """
        return read_record(self.path, self.model, self.remedy)

    def check(self) -> None:
        """Raises Damaged unless it is as it was written; what it says is not looked at."""
        read_json(self.path, self.remedy)

    def sound(self, say: Say) -> bool:
        """Whether it is there as it was written; asked by who writes it again otherwise.

        Args:
            say: told of a damaged one.
        """
        try:
            return self.find() is not None
        except Damaged as damage:
            say(healing(damage))
            return False

    def find(self) -> R | None:
        """The document, or None if it was not written."""
        return self.read() if self.exists() else None

    def write(self, value: BaseModel) -> None:
        """Replaces the document, atomically."""
        write_json(self.path, value)


def to_stderr(line: str) -> None:
    """Says a line where nobody has a better place for it."""
    print(line, file=sys.stderr)


def append_rows(path: Path | str, rows: Iterable[Row], *, digests: bool = False) -> None:
    """Appends ``rows`` as JSON lines in one write, flushed; a torn last line is cut first.

    Args:
        path: the file.
        rows: what is appended.
        digests: every row carries its digest, for files that grow for ever, so that no marker can.
    """
    written_as = row_with_digest if digests else _line
    data = b"".join(written_as(_plain(row)) + b"\n" for row in rows)
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
        Damaged: a row with a digest is not what that says.
    """
    if not Path(path).exists():
        return []
    with reading(path):
        data = Path(path).read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.split(b"\n")
    return [_opened_row(lines[n - 1], row, f"{path}:{n}") for n, row in objects(whole, path)]


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


def file_state(path: Path | str) -> tuple[int, int, int, int]:
    """What changes when a file does: size, time of change, inode, and the time that nobody can set."""
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns


def content_hash(path: Path | str) -> str:
    """`sha256_file`, remembered by this process for as long as `file_state` stays the same."""
    key = os.path.abspath(path)
    state = file_state(path)
    known = _hashes.get(key)
    if known is not None and known[0] == state:
        return known[1]
    found = sha256_file(path)
    # as git does: within a tick of the file system's clock, a change after this look would not show
    if time.time_ns() - state[3] > TICK_NS and file_state(path) == state:
        _hashes[key] = state, found
    return found


TICK_NS = 50_000_000
_hashes: dict[str, tuple[tuple[int, int, int, int], str]] = {}


def healing(damage: Damaged) -> str:
    """The line for something damaged that is made again."""
    return f"note: {str(damage).partition(';')[0]}: it is made again"


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


def _opened_row(line: bytes, row: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = checked_row(line, row)
    except ValueError as error:
        raise Damaged(
            f"{where} is not as it was written ({error}); copy the file back, or remove that line"
        ) from error
    return found


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False, ensure_ascii=False).encode()


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
