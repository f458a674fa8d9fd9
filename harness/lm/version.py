"""What scores lm-eval's tasks, told without importing it: that takes seconds."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from kdbench.harness.lm.declared import names_below
from kdbench.harness.provenance import tree_sha256

FILES = 2
"""Version of what is made of values that a folder's own code returns."""


def scorer() -> str:
    """Version of scores that lm-eval makes, and of what is made of them here."""
    return f"lm-eval {version('lm_eval')}, 2"


def scored_by(name: str, folders: Iterable[Path]) -> str:
    """What would score a task now: lm-eval's `scorer`, and the files of a task that a folder brings.

    Its code and settings decide the scores as much as lm-eval does, and are edited where they lie.
    """
    files = files_sha256(name, folders)
    return f"{scorer()}, files {FILES} {files[:12]}" if files else scorer()


def files_sha256(name: str, folders: Iterable[Path | str]) -> str:
    """sha256 of the Python and YAML files of the folders that bring a task; empty for lm-eval's own."""
    found = [folder for folder in map(Path, folders) if name in names_below(folder)]
    places = {str(place): folder for place, folder in enumerate(found)}  # wherever they lie
    return tree_sha256(places) if places else ""
