"""Rows of the generated world kept on disk: making them takes seconds of a core in every command.

A file is named by the code that makes its rows, so that other code finds none; it is whole or not there,
and carries its digest. A cache that cannot be read or written costs time only.
"""

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.files.folders import cache_folder
from kdbench.harness.files.store import read_json, write_json
from kdbench.harness.provenance import source_folders, tree_sha256

Row = dict[str, Any]
FOLDER = "world"
"""Of the cache; see `kdbench.harness.files.cleaning.CACHE`."""
WORTH = 200
"""Rows from which a file is quicker."""


def stored(name: str, count: int, make: Callable[[], tuple[Row, ...]]) -> tuple[Row, ...]:
    """The rows that ``make`` gives, from disk where they are.

    Args:
        name: split, edition and seed: what the rows follow from beside our code.
        count: how many they are.
        make: makes them.
    """
    if count < WORTH:
        return make()
    path = cache_folder() / FOLDER / f"{name}-{_sources()[:12]}.json"
    with contextlib.suppress(InputError):  # there is none, or it is damaged: it is written again
        found = read_json(path) if path.is_file() else {}
        if len(found.get("rows", ())) == count:
            return tuple(found["rows"])
    rows = make()
    with contextlib.suppress(InputError):
        write_json(path, {"rows": rows})
    return rows


@cache
def _sources() -> str:
    """Hash of the code that makes rows."""
    folders = source_folders()
    return tree_sha256({"mini": folders["tasks"] / "mini", "data": folders["harness"] / "data"})
