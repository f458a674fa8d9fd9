"""Paths inside a folder that somebody else may have made: nothing in it leads out of it.

A run folder is received, unpacked and looked at. Its documents name files by relative paths, and what
stands at a path may be a symbolic link, or a pipe that never ends. Whoever names a file of a run
(`kdbench.harness.files.run_folder`) or of a stage's marker does so by `inside`.
"""

import os
import stat
from pathlib import Path, PurePosixPath

from kdbench.harness.errors import InputError


def inside(folder: Path, name: str) -> Path:
    """``folder/name``, there or not, where no part of ``name`` leads elsewhere.

    Links above ``folder`` are the user's own and are followed.

    Raises:
        InputError: ``name`` is absolute or climbs up, or what stands at one of its parts is neither a
            file nor a folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise InputError(
            f"{folder} names {name!r} as a file of its own, which lies outside; take that run away"
        )
    path = folder
    for part in parts:
        path = path / part
        _refuse_other(path)
    return path


def sealed(folder: Path) -> Path:
    """The folder, there or not, looked through: nothing in it, however deep, leads elsewhere.

    Raises:
        InputError: something in it is neither a file nor a folder.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _refuse_other(Path(place, name))
    return folder


def _refuse_other(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # not there, or not to be seen: whoever opens it says so
        return
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    what = "a symbolic link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
    raise InputError(
        f"{path} is {what}, and a run folder may hold files and folders only; put the thing itself in "
        "its place, or take it away"
    )
