"""Names of methods, tasks, suites and studies, and how a name becomes code (imported only when asked for).

A third party adds a method without touching this file: a package with the entry-point group
``kdbench.methods`` (``name = "module:Class"``), or any file given as ``--method path/to/file.py``
that defines one subclass of `kdbench.trainers.method.Method`.

Code is named by the command line (`find_method`) or is installed. What a run folder says about its
method is a name and a fingerprint, never a place to load from (`recorded_method`).
"""

import hashlib
import importlib
import importlib.util
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdbench.harness.errors import InputError, unknown
from kdbench.harness.foreign import foreign
from kdbench.harness.own_methods import METHODS

if TYPE_CHECKING:
    from kdbench.harness.config import MethodConfig
    from kdbench.trainers.method import Method

ENTRY_POINTS = "kdbench.methods"

_given: dict[str, "Found"] = {}
"""Method files that this command line named, by the sha256 of their content."""


class Found(NamedTuple):
    """A method that a name stands for."""

    name: str
    source: str
    fingerprint: str
    method: "type[Method]"


def third_party_methods() -> dict[str, str]:
    """Methods that installed packages offer. Our own names cannot be taken."""
    offered = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    return {name: value for name, value in offered.items() if name not in METHODS}


def method_names() -> list[str]:
    """All methods by name, ours first."""
    return [*METHODS, *sorted(third_party_methods())]


def check_method_name(name: str) -> None:
    """Raises InputError if ``name`` is no method and no ``.py`` file; imports no method."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise InputError(f"no method file at {name!r}; give the path of an existing .py file")
    elif name not in METHODS and name not in (known := method_names()):
        raise unknown("method", name, known, " (or give a file: --method path/to/method.py)")


def find_method(name: str) -> Found:
    """The method class that a name or a ``.py`` file stands for, as the command line gives it.

    Never to be called with what a run folder says: see `recorded_method`.

    Raises:
        InputError: no such name or file, or the file defines no method or several.
    """
    check_method_name(name)
    if name.endswith(".py"):
        return _from_file(Path(name))
    source = (third_party_methods() | METHODS)[name]
    module_name, _, attribute = source.partition(":")
    if name in METHODS:
        return Found(name, source, "", getattr(importlib.import_module(module_name), attribute))
    with foreign(
        f"method {name!r} cannot be loaded from {source}", "repair or uninstall that package"
    ):
        module = importlib.import_module(module_name)
        found: type[Method] = getattr(module, attribute)
    return Found(name, source, _source_hash(module.__file__), found)


def recorded_method(name: str, fingerprint: str) -> Found:
    """The method of a configuration that may have been read from a folder: ours, a file that this
    command line named, or an installed package's; the two latter by their content.

    Args:
        name: as recorded.
        fingerprint: as recorded; empty for our own methods.

    Raises:
        InputError: none of them; nothing was run to find out.
    """
    if fingerprint in _given:
        return _given[fingerprint]
    if name in METHODS and not fingerprint:
        return find_method(name)
    source = third_party_methods().get(name)
    if source is not None and _source_hash(_origin(source)) == fingerprint:
        return find_method(name)
    raise InputError(
        f"method {name!r} of this run is code of others that is not installed here as it was, and "
        "kdbench runs no code that a run folder names; go on with that run by the file that made it, "
        "kdbench run --method path/to/file.py, or give --teacher as a model's folder"
    )


def check_method(method: "MethodConfig") -> None:
    """Tries a method that a file defines on a tiny random pair, before anything is paid for it.

    Raises:
        InputError: it fails there.
    """
    from kdbench.harness import method_files

    found = _given.get(method.fingerprint)
    if found is not None and os.environ.get("WORLD_SIZE", "1") == "1":
        method_files.rehearse(Path(found.source), found.method, method.options)


def _origin(source: str) -> str | None:
    """The file of an installed module, found without running it."""
    try:
        spec = importlib.util.find_spec(source.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None else None


def _from_file(path: Path) -> Found:
    from kdbench.harness import method_files

    source = method_files.read_source(path)
    fingerprint = hashlib.sha256(source).hexdigest()
    if fingerprint not in _given:
        module_name = f"{method_files.MODULE}{path.stem.replace('-', '_')}_{fingerprint[:8]}"
        method = method_files.load(path, source, module_name)
        _given[fingerprint] = Found(path.stem, str(path), fingerprint, method)
    return _given[fingerprint]


def _source_hash(path: str | None) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
