"""Folders that appear whole or not at all: checkpoints, exported models, shared caches."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from kdbench.harness.errors import Damaged, InputError
from kdbench.harness.files.cleaning import ABOUT, CACHE
from kdbench.harness.files.locks import LOCK, RunLock, lock_holder
from kdbench.harness.files.owners import sweep, sweep_target, temporary
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import Say, make_folder, sync_path, to_stderr, write_text, writing

BUILT = "built"
"""The stage of a folder that `build_once` made."""


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
    about = cache / ABOUT
    if not about.is_file():
        lines = [f"{kind}/: {what}" for kind, what in CACHE.items()]
        head = "What runs of kdbench share. kdbench clean --dry-run says how much it is."
        write_text(about, "\n".join([head, "", *lines, ""]))
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

    Those of ``path`` go whatever their host says and their age: the lock says that their writer is gone.

    Only the holder of the run's lock may call this, before it looks whether ``path`` exists.
    """
    target = Path(path)
    old = _old(target)
    if old.exists() and not target.exists():
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)
    sweep_target(target)
    sweep(target.parent, deep=False)


def build_once(
    path: Path | str,
    build: Callable[[Path], None],
    *,
    say: Say = to_stderr,
    wait: float = 3600.0,
) -> Path:
    """Returns the cached folder ``path``, built by ``build(empty folder)`` if it is not there.

    Several processes may ask at once: one builds, the others wait for it. The folder appears whole
    or not at all, with a marker of what is in it.

    Args:
        path: the folder.
        build: fills an empty one.
        say: told if the folder was damaged; it is then built again.
        wait: seconds for another process that builds it.

    Raises:
        RunLocked: another process was still building after ``wait`` seconds.
        InputError: the place cannot be written.
    """
    target = Path(path)
    stage = Stage(target, BUILT)
    with contextlib.suppress(Damaged):
        if stage.done():
            return target
    with RunLock(target.parent, wait=wait, name=f".{target.name}.lock"):
        settle_folder(target)
        if not stage.done(say):  # nor if an older kdbench built it, which left no marker
            with new_folder(target) as unfinished:
                build(unfinished)
                Stage(unfinished, BUILT).mark([unfinished])
    return target


def _old(target: Path) -> Path:
    return target.parent / f".{target.name}.old"
