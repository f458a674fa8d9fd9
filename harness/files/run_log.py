"""``run.log`` of a folder: what commands did there, with the time, for whoever comes in the morning.

Whoever holds the folder's lock keeps its log: a line when a command begins, one with the versions, what it
said to the terminal and what libraries warned of, and a line when it ends, after the traceback if there is
one. It is appended to when a run is continued. Nothing reads it but people, and `last_end`; no id, no digest
and no marker depends on it, and a disk that takes no line stops no run.
"""

import contextlib
import functools
import logging
import os
import re
import shlex
import socket
import sys
import traceback
import warnings
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.inside import inside
from kdbench.harness.files.store import write_bytes
from kdbench.harness.printing import visible
from kdbench.harness.versions import versions

NAME = "run.log"
MOST = 1 << 20
"""Bytes beyond which a log loses its first half when a command begins."""
FULL = 2 * MOST
"""Bytes beyond which one command's lines are left out, but for its last."""
LONGEST = 2_000
"""Characters of a line."""
DEEPEST = 20_000
"""Characters of a traceback, of its end."""
LOOKED = 65_536
"""Bytes of the end of a log that are looked at for how the last command ended."""

End = Literal["done", "failed", "interrupted"]
_LINE = re.compile(r"^(\S+ \S+) (begin|end): ?(.*)$")
_SECRET = re.compile(
    r"TOKEN(?!I)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|_KEY$", re.IGNORECASE
)
_TOKENS = re.compile(
    r"\b(?:hf_|sk-|ghp_|github_pat_|xox[abp]-|AKIA)[A-Za-z0-9_\-]{12,}"
    r"|(?<=Bearer )\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
HIDDEN: Final = "[secret]"


class Ending(NamedTuple):
    """How the last command in a folder ended, and when; ``said``: of a failure, in a line."""

    how: End
    said: str
    when: str


class RunLog:
    """The log of a folder while a command works there.

    Args:
        folder: the folder; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self._path = inside(folder, NAME)

    def __enter__(self) -> "RunLog":
        with contextlib.suppress(InputError, OSError):
            self._trim()
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        self._write(f"begin: {command} (process {os.getpid()} on {socket.gethostname()})")
        if self._path not in _told:
            _told.add(self._path)
            self._write(f"versions: {_versions()}")
        if not _open:
            _listen()
        _open.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        _open.remove(self)
        if not _open:
            _stop_listening()
        if isinstance(error, Exception):
            trace = "".join(traceback.format_exception(error))[-DEEPEST:]
            said = f"failed: {type(error).__name__}: {error}"
            self._write(said, ending=trace)
            self._write(f"end: {said}", ending="")
        else:
            self._write("end: done" if error is None else "end: interrupted", ending="")

    def _write(self, line: str, *, ending: str | None = None) -> None:
        """Appends a line; ``ending``: what follows it, indented, however full the log is."""
        shown = " ".join(visible(without_secrets(line)).split())
        if len(shown) > LONGEST:
            shown = f"{shown[: LONGEST // 2]} … {shown[-LONGEST // 2 :]}"
        below = visible(without_secrets(ending or "")).splitlines()
        text = "".join(f"    {each}\n" for each in below)
        data = f"{_now()} {shown}\n{text}".encode(errors="backslashreplace")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, flags, 0o666)
            try:
                if ending is not None or os.fstat(descriptor).st_size < FULL:
                    os.write(descriptor, data)
            finally:
                os.close(descriptor)

    def _trim(self) -> None:
        """Takes the older half of a long log away."""
        if not self._path.is_file() or self._path.stat().st_size <= MOST:
            return
        kept = self._path.read_bytes()[-MOST // 2 :]
        write_bytes(self._path, b"(older lines were taken away)\n" + kept[kept.find(b"\n") + 1 :])


_open: list[RunLog] = []
"""Logs of the folders that this process works in: a run's, and of a shared training that it needs."""

_told: set[Path] = set()
"""Logs that have the versions of this process."""


def note(line: str) -> None:
    """Adds a line to the logs of the folders that this process works in, if it does in any."""
    for log in _open:
        log._write(line)


def without_secrets(text: str) -> str:
    """The text without what looks like a token, and without the values of variables that hold one."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET.search(name):
            text = text.replace(value, HIDDEN)
    return _TOKENS.sub(HIDDEN, text)


def last_end(folder: Path) -> Ending | None:
    """How the last command in a folder ended; None: there was none, it goes on, or it was killed."""
    found = next(filter(None, map(_LINE.match, reversed(_tail(folder)))), None)
    if found is None or found[2] == "begin":
        return None
    how, _, said = found[3].partition(": ")
    return Ending(how, said, found[1]) if how in ("done", "failed", "interrupted") else None  # type: ignore[arg-type]


def last_line(folder: Path) -> str:
    """What the command that works in a folder said last, without the time; empty before that."""
    lines = [line.split(" ", 2)[-1] for line in _tail(folder) if not line.startswith(" ")]
    said = lines[-1] if lines else ""
    return "" if said.startswith(("begin:", "end:", "versions:")) else said


def _tail(folder: Path) -> list[str]:
    path = inside(folder, NAME)
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOOKED))
        return file.read().decode("utf-8", "replace").splitlines()


@functools.cache
def _versions() -> str:
    return ", ".join(f"{package} {version}" for package, version in versions().items())


def _now() -> str:
    return datetime.now().astimezone().isoformat(" ", "seconds")


# -- what libraries warn of -----------------------------------------------------------------------


class _Noting(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # the text of a library's message is its own code
            note(f"{record.levelname.lower()}: {record.name}: {record.getMessage()}")


LIBRARIES = ("accelerate", "datasets", "huggingface_hub", "lm_eval", "torch", "transformers")
"""Whose loggers we listen to: a handler at the root would keep others from setting up logging there."""
_handler = _Noting(logging.WARNING)
_shown: list[Any] = []
"""What showed warnings before we listened."""


def _listen() -> None:
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(_handler)
    _shown.append(warnings.showwarning)
    warnings.showwarning = _noted


def _stop_listening() -> None:
    for name in LIBRARIES:
        logging.getLogger(name).removeHandler(_handler)
    shown = _shown.pop()
    if warnings.showwarning is _noted:
        warnings.showwarning = shown


def _noted(
    message: Any, category: Any, filename: str, lineno: int, *more: Any, **named: Any
) -> None:
    note(f"warning: {category.__name__}: {message} ({Path(filename).name}:{lineno})")
    _shown[-1](message, category, filename, lineno, *more, **named)
