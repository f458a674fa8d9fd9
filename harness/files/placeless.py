"""Texts without the places of one machine, for what is shown to others or given to them."""

import re
from collections.abc import Sequence

MACHINE = {"--runs-dir", "--data-dir", "--device"}
"""Flags of a command that say where, not what; each has a value."""
CIRCUMSTANCES = {"--json", "--quiet", "--accept-drift"}
_FOLDERS = re.compile(r"(?<![\w.~/-])(?:~|/(?!/))(?:[^\s,'\"\])}/]*/)*")
"""The folders of an absolute path anywhere in a word; not the slashes of a URL."""


def command(argv: Sequence[str]) -> list[str]:
    """A command line without what belongs to one machine: folders to write, devices, paths."""
    kept: list[str] = []
    skip = False
    for word in argv:
        flag = word.partition("=")[0]
        if skip or flag in CIRCUMSTANCES:
            skip = False
        elif flag in MACHINE:
            skip = "=" not in word
        else:
            kept.append(placeless(word))
    return kept


def placeless(text: str) -> str:
    """Text without the folders of the machine, the last part of each path apart."""
    return _FOLDERS.sub("", text)
