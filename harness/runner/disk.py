"""Whether a disk has room for a training, before it begins."""

import shutil
from pathlib import Path

from kdbench.harness.errors import InputError
from kdbench.harness.files.cleaning import size_of
from kdbench.harness.plan.disk import training


def check_disk(folder: Path, trained: int, student: int = 0) -> None:
    """Refuses a training that would fill the disk.

    Args:
        folder: where it is kept; what lies there already counts as had.
        trained: parameters that are trained, all or those of adapters.
        student: parameters of the student that is kept, if those are more.

    Raises:
        InputError: there is less room than its checkpoints, best weights and student take at most.
    """
    needed = training(trained, student)
    there = size_of(folder) if folder.is_dir() else 0
    free = _free(folder)
    if needed - there > free:
        raise InputError(
            f"training {trained or student:,} parameters takes up to {_gigabytes(needed)} in {folder} (two "
            f"checkpoints, the best weights and the student), and its disk has {_gigabytes(free)} free; "
            "free some space (kdbench clean --dry-run says what can go), or choose another disk with "
            "--runs-dir and KDBENCH_CACHE"
        )


def check_store(folder: Path, needed: int) -> None:
    """Refuses a teacher store that would fill the disk.

    Args:
        folder: where it is kept.
        needed: bytes of what it still lacks.

    Raises:
        InputError: there is less room.
    """
    free = _free(folder)
    if needed > free:
        raise InputError(
            f"the teacher store takes {_gigabytes(needed)} more in {folder}, and its disk has "
            f"{_gigabytes(free)} free; free some space (kdbench clean --dry-run says what can go), choose "
            "another disk with KDBENCH_CACHE, or leave teacher.store out"
        )


def _free(folder: Path) -> int:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
