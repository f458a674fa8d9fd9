"""Who is writing: names that say which process made a temporary file, and whether that still lives."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import time
from functools import lru_cache
from pathlib import Path

START_FIELD = 19  # of /proc/<pid>/stat counted from the state: clock ticks from boot to start
FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds after which a temporary file of another host, or of an unknown process, belongs to nobody."""

NAMESPACE = Path("/proc/self/ns/pid")

_TAG = r"(?P<host>[^/+.]*)(\+(?P<namespace>\d*))?-(?P<pid>\d+)-(?P<start>\d*)-[0-9a-f]{8}"
_TEMPORARY = re.compile(rf"\..+\.{_TAG}\.tmp")


def namespace() -> str:
    """Where process ids are ours, empty if unknown: containers of one host name may have their own."""
    try:
        return str(NAMESPACE.stat().st_ino)
    except OSError:
        return ""


def near(host: str, within: str | None) -> bool:
    """Whether process ids of that host are ours.

    Args:
        host: its name.
        within: `namespace` of who wrote it down; None: an older kdbench, which did not.
    """
    return _label(host) == _label(socket.gethostname()) and within in (None, namespace())


def _label(host: str) -> str:
    """A host's name without dots, so that a temporary name has one reading."""
    return host.replace(".", "_")


def temporary(target: Path, scratch: Path | None = None) -> Path:
    """A name that nothing has yet, beside ``target`` or in ``scratch``, which says whose it is."""
    process = f"{os.getpid()}-{_own_start(os.getpid())}"
    tag = f"{_label(socket.gethostname())}+{namespace()}-{process}-{secrets.token_hex(4)}"
    return (scratch or target.parent) / f".{target.name}.{tag}.tmp"


def sweep(folder: Path | str, *, deep: bool = True) -> None:
    """Removes what dead processes left under a temporary name; a live writer's files stay.

    Args:
        folder: where to look; may be absent.
        deep: in folders below it too.
    """
    for place, folders, files in os.walk(folder):
        unfinished = [name for name in (*folders, *files) if _ours(name)]
        for path in filter(_abandoned, (Path(place, name) for name in unfinished)):
            _remove(path)
        folders[:] = [name for name in folders if deep and name not in unfinished]


def sweep_target(target: Path) -> None:
    """Removes all that was to become ``target``, whosever it is; only for the one who may write it."""
    name = re.compile(rf"\.{re.escape(target.name)}\.{_TAG}\.tmp")
    with contextlib.suppress(FileNotFoundError):
        for found in filter(name.fullmatch, os.listdir(target.parent)):
            _remove(target.parent / found)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # a folder that may only be read
            path.unlink()


def alive(pid: int, start: str) -> bool:
    """Whether the process of this id that started then lives on this host (zombies are dead).

    Args:
        pid: its id.
        start: `started` of it; empty: not known. An id can be given to a newcomer.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # exists, and is someone else's
        return True
    state, began = _stat(pid)
    return state not in ("Z", "X") and (not start or start == began)


def started(pid: int) -> str:
    """When a process started, in ticks after boot; empty if the system does not say."""
    return _stat(pid)[1]


@lru_cache(maxsize=1)
def _own_start(pid: int) -> str:
    return started(pid)


def _ours(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _abandoned(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found and near(found["host"], found["namespace"]):
        return not alive(int(found["pid"]), found["start"])
    try:
        return time.time() - path.stat().st_mtime > FORGOTTEN_AFTER
    except OSError:
        return False


def _stat(pid: int) -> tuple[str, str]:
    """State and start of a process (ticks after boot) by ``/proc/<pid>/stat``; empty if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text[text.rfind(")") + 2 :].split()  # after the command's name
        return fields[0], fields[START_FIELD]
    except (OSError, IndexError):
        return "", ""
