"""One writer a folder: the run lock.

Whoever takes a folder's lock first sweeps away what dead writers left half-written in it.

The lock is the file ``lock``: one JSON line of host, pid, the process's start and a heartbeat, held
under a POSIX record lock for as long as the writer lives. The record lock decides where it works
(one host, most network file systems): the kernel drops it when the holder dies, however it dies,
and forked data workers do not inherit it. The content decides otherwise: a pid that is dead on this
host, or a heartbeat from another host that stopped for `STALE_AFTER` seconds, is stale and taken
over; anything else is a live writer. A container with process ids of its own is another host.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from kdbench.harness.errors import InputError, RunLocked
from kdbench.harness.files.inside import inside, sealed
from kdbench.harness.files.owners import alive, namespace, near, started, sweep
from kdbench.harness.files.records import Record
from kdbench.harness.files.run_log import RunLog
from kdbench.harness.files.store import make_folder, writing

LOCK = "lock"
HEARTBEAT_EVERY = 10.0
WAIT = 24 * 3600.0
"""Seconds to wait for another process that makes, or asks for, what is shared."""
STALE_AFTER = 120.0
AT_ONCE = 100
"""How often a lock is asked for at once while others come and go between two system calls of ours."""

_held: set[str] = set()  # record locks do not exclude within one process; this set does
_held_guard = threading.Lock()


class Holder(Record):
    """Content of a lock file."""

    host: str
    namespace: str | None = None
    """Of its process id; None: written by an older kdbench."""
    pid: int
    start: str = ""
    began: float = 0.0
    heartbeat: float

    def is_near(self) -> bool:
        """Whether its process id is one of those that we see."""
        return near(self.host, self.namespace)

    def silence(self) -> float:
        """Seconds since its last heartbeat."""
        return max(0.0, time.time() - self.heartbeat)


class RunLock:
    """Holds ``folder/lock`` while the block runs.

    Args:
        folder: run folder; created if needed.
        wait: seconds to wait for a live holder before giving up.
        name: file name of the lock.

    Raises:
        RunLocked: another live process holds it.
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path | str, *, wait: float = 0.0, name: str = LOCK) -> None:
        self.path = Path(folder) / name
        self._wait = wait
        self._key = str(self.path.resolve())
        self._descriptor = -1
        self._stop = threading.Event()
        self._began = 0.0
        self._log: RunLog | None = None

    def __enter__(self) -> Self:
        make_folder(self.path.parent)
        if self.path.name == LOCK:  # nothing is written where a link in it could lead elsewhere
            sealed(self.path.parent)
        deadline = time.monotonic() + self._wait
        while (refusal := self._try()) is not None:
            if time.monotonic() >= deadline:
                raise RunLocked(refusal)
            time.sleep(min(0.2, max(0.01, self._wait)))
        threading.Thread(target=self._beat, name="kdbench-heartbeat", daemon=True).start()
        if self.path.name == LOCK:  # of the whole folder; other names guard a part of it
            sweep(self.path.parent)
            self._log = RunLog(self.path.parent).__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._log is not None:
            self._log.__exit__(kind, error, trace)
        # unlinked while held: a newcomer that opened this file sees that it is no longer the lock
        with _held_guard:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._descriptor)
            _held.discard(self._key)

    def _try(self) -> str | None:
        """Takes the lock, or returns why not as a sentence."""
        with _held_guard:
            if self._key in _held:
                return f"{self.path.parent} is being written by this very process"
            descriptor = self._open()
            if isinstance(descriptor, str):
                return descriptor
            self._descriptor = descriptor
            self._began = time.time()
            self._write()
            _held.add(self._key)
        return None

    def _open(self) -> int | str:
        """The locked file, or why it is not ours as a sentence."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        for _ in range(AT_ONCE):
            with writing(self.path):
                descriptor = os.open(inside(self.path.parent, self.path.name), flags, 0o666)
            try:
                refusal = _refusal(self.path, descriptor)
            except _Moved:
                os.close(descriptor)
                time.sleep(0.01)
                continue
            if refusal is None:
                return descriptor
            os.close(descriptor)
            return refusal
        return f"{self.path.parent} changes hands again and again; try again"

    def _write(self) -> None:
        holder = Holder(
            host=socket.gethostname(),
            namespace=namespace(),
            pid=os.getpid(),
            start=started(os.getpid()),
            began=self._began,
            heartbeat=time.time(),
        )
        # in place, at one length: another open and close of this file would drop the record lock
        line = json.dumps(holder.model_dump()).ljust(254) + "\n"
        with writing(self.path):
            os.pwrite(self._descriptor, line.encode(), 0)
            os.ftruncate(self._descriptor, len(line.encode()))

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_EVERY):
            with _held_guard, contextlib.suppress(InputError):
                if not self._stop.is_set():
                    self._write()


def lock_holder(folder: Path | str, name: str = LOCK) -> Holder | None:
    """The live holder of a folder's lock, or None (for listings; never by the holding process)."""
    path = inside(Path(folder), name)
    if str(path.resolve()) in _held or not path.exists():
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            holder = _holder(file.fileno())
    except OSError:
        return None
    return holder if holder is not None and _alive(holder) else None


def was_killed(folder: Path | str, name: str = LOCK) -> bool:
    """Whether the last holder of a folder's lock is gone without having given it back."""
    return inside(Path(folder), name).is_file() and lock_holder(folder, name) is None


class _Moved(Exception):
    """The file that was opened is the lock no more."""


def _refusal(path: Path, descriptor: int) -> str | None:
    """Why the open lock file cannot be ours, or None."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = _holder(descriptor)
            if holder is not None and not _alive(holder) and holder.silence() >= STALE_AFTER:
                return _gone(path, holder)
            return _sentence(path, holder)
        # no record locks on this file system: the content alone decides
    try:
        current = os.stat(path)
    except FileNotFoundError:  # just released
        raise _Moved from None
    if current.st_ino != os.fstat(descriptor).st_ino:  # just taken by another
        raise _Moved
    holder = _holder(descriptor)
    own = holder is not None and holder.is_near() and holder.pid == os.getpid()
    if holder is not None and not own and _alive(holder):
        return _sentence(path, holder)
    return None


def _sentence(path: Path, holder: Holder | None) -> str:
    who = "another process"
    if holder is not None:
        who = f"process {holder.pid} on {holder.host}"
        who += f" (last heartbeat {holder.silence():.0f} s ago)"
    return f"{path.parent} is being written by {who}; wait for it or stop it first"


def _gone(path: Path, holder: Holder) -> str:
    """What is said of a lock that some file systems keep for a machine that died."""
    return (
        f"{path.parent} was written by process {holder.pid} on {holder.host}, last heard of "
        f"{holder.silence():.0f} s ago, and its lock is still held: that machine seems gone; if it is, "
        f"remove {path} and try again"
    )


def _holder(descriptor: int) -> Holder | None:
    """Content of an open lock file; None if it is empty or no lock of ours."""
    try:
        return Holder.model_validate_json(os.pread(descriptor, 4096, 0))
    except ValidationError:
        return None


def _alive(holder: Holder) -> bool:
    if not holder.is_near():
        return holder.silence() < STALE_AFTER
    return alive(holder.pid, holder.start)
