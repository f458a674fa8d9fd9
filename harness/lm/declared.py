"""Names that task files declare, read without importing lm-eval."""

import re
from functools import cache
from pathlib import Path

_NAME = re.compile(rb"^[\"']?(?:task|group|tag)[\"']?:[ \t]*[\"']?([^\s\"'\[\]#]+)", re.MULTILINE)
_LISTED = re.compile(
    rb"^[\"']?tag[\"']?:[ \t]*\r?\n((?:[ \t]*-[ \t]*\S+[ \t]*\r?\n?)+)", re.MULTILINE
)
_INLINE = re.compile(rb"^[\"']?tag[\"']?:[ \t]*\[([^\]]*)\]", re.MULTILINE)


@cache
def names_below(folder: Path) -> frozenset[str]:
    """Task, group and tag names that the YAML files below a folder declare."""
    names: set[bytes] = set()
    for path in folder.glob("**/*"):
        # lm-eval includes files of any name, and some of its own, without a suffix, declare tags
        if path.suffix not in {"", ".yaml", ".yml"} or not path.is_file():
            continue
        text = path.read_bytes()
        names.update(_NAME.findall(text))
        for block in _LISTED.findall(text):
            names.update(line.split(b"-", 1)[1].strip(b" \t\r\"'") for line in block.splitlines())
        for block in _INLINE.findall(text):
            names.update(part.strip(b" \t\"'") for part in block.split(b","))
    return frozenset(name.decode(errors="replace") for name in names if name and name != b"null")
