"""Folders that a process keeps for as long as it lives, and that the next one takes away if it was killed.

A killed process takes nothing away itself, and weights on the way to vLLM lie in memory: without this, each
kill would leave a model's size of it behind.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "kdbench-vllm-"
_YOUNG = 60.0
"""Seconds after which a folder without a lock is nobody's; before, its owner may be about to take it."""


class HeldFolder:
    """A fresh folder, locked until `release` or the end of this process, however that comes.

    Args:
        inside: where; None: where temporary files go.
    """

    def __init__(self, inside: Path | None = None) -> None:
        sweep(Path(tempfile.gettempdir()) if inside is None else inside)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=inside))
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Takes it away; may be called twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextlib.contextmanager
def held_folder(inside: Path | None = None) -> Iterator[Path]:
    """The same for a block."""
    folder = HeldFolder(inside)
    try:
        yield folder.path
    finally:
        folder.release()


def sweep(inside: Path) -> None:
    """Takes away what killed processes of this user left in a folder."""
    for path in inside.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            about = path.lstat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < _YOUNG:
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: its owner lives
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
