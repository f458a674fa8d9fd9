"""Folders that appear whole or not at all: checkpoints, exported models, shared caches."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from kdbench.harness.errors import InputError
from kdbench.harness.files.locks import LOCK, RunLock, lock_holder
from kdbench.harness.files.owners import sweep, temporary
from kdbench.harness.files.store import make_folder, sync_path, writing


def cache_folder() -> Path:
    """Where runs keep what they share: ``KDBENCH_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("KDBENCH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdbench"


def board_cache() -> Path:
    """Where boards remember paired tests, by content."""
    return cache_folder() / "board"


def open_cache() -> Path:
    """`cache_folder`, made if needed, without what dead processes left in it."""
    cache = make_folder(cache_folder())
    for kind in [p for p in cache.iterdir() if p.is_dir()]:
        sweep(kind, deep=False)
        for lock in [*kind.glob(f"*/{LOCK}"), *kind.glob(f".*.{LOCK}")]:
            if lock_holder(lock.parent, lock.name) is None:
                # another process may want it at this moment; who holds it may take it away
                with contextlib.suppress(InputError), RunLock(lock.parent, name=lock.name):
                    pass
    return cache


@contextlib.contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yields an empty temporary folder that becomes ``path`` when the block ends without error.

    A folder already at ``path`` is replaced. A kill in the one instant between its removal and the
    new one's arrival leaves neither; the next writer's `settle_folder` puts the old one back. Only
    the holder of the run's lock may call this.
    """
    target = Path(path)
    make_folder(target.parent)
    settle_folder(target)
    unfinished = temporary(target)
    old = _old(target)
    with writing(unfinished):
        unfinished.mkdir()
    try:
        yield unfinished
        with writing(target):
            _share(unfinished)
            if target.exists():
                os.rename(target, old)
            os.rename(unfinished, target)
            sync_path(target.parent)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _share(folder: Path) -> None:
    """Flushes the files of a new folder, and gives them the modes that the umask gave the folder.

    Weights are written private by the library that writes them, and a folder is there for colleagues.
    """
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)
            sync_path(file)


def settle_folder(path: Path | str) -> None:
    """Mends what a kill inside `new_folder` left: restores a lost folder, removes leftovers.

    Only the holder of the run's lock may call this, before it looks whether ``path`` exists.
    """
    target = Path(path)
    old = _old(target)
    if old.exists() and not target.exists():
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)
    sweep(target.parent, deep=False)


def build_once(path: Path | str, build: Callable[[Path], None], *, wait: float = 3600.0) -> Path:
    """Returns the cached folder ``path``, built by ``build(empty folder)`` if it is not there.

    Several processes may ask at once: one builds, the others wait for it. The folder appears whole
    or not at all.

    Raises:
        RunLocked: another process was still building after ``wait`` seconds.
        InputError: the place cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        return target
    with RunLock(target.parent, wait=wait, name=f".{target.name}.lock"):
        settle_folder(target)
        if not target.is_dir():
            with new_folder(target) as temporary:
                build(temporary)
    return target


def _old(target: Path) -> Path:
    return target.parent / f".{target.name}.old"
