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

_TEMPORARY = re.compile(r"\..+\.(?P<host>[^/]*)-(?P<pid>\d+)-(?P<start>\d*)-[0-9a-f]{8}\.tmp")


def temporary(target: Path, scratch: Path | None = None) -> Path:
    """A name that nothing has yet, beside ``target`` or in ``scratch``, which says whose it is."""
    tag = f"{socket.gethostname()}-{os.getpid()}-{_own_start(os.getpid())}-{secrets.token_hex(4)}"
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
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # a folder that may only be read
                    path.unlink()
        folders[:] = [name for name in folders if deep and name not in unfinished]


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
    if found and found["host"] == socket.gethostname():
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
