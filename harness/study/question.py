"""Which question a folder of tables answers, so that those of another one do not overwrite them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import make_folder, read_json, write_json
from kdbench.harness.identity import digest

NAME = "question.json"
DIGITS = 8


def place_for(asked: Mapping[str, Any], default: Path, chosen: Path | None) -> Path:
    """Where the results of a question are, or would be; nothing is written.

    Args:
        asked: the question as plain data.
        default: where they are if the user chose no folder; beside it, with digits of the question in its
            name, if another question's are there.
        chosen: by the user.

    Raises:
        InputError: the chosen folder has the results of another question.
    """
    mine = json.loads(json.dumps(asked))
    other = default.with_name(f"{default.name}-{digest(mine)[:DIGITS]}")
    for place in [chosen] if chosen else [default, other]:
        if _stored(place) in (None, mine):
            return place
    place = chosen or other
    raise InputError(
        f"{place} has the results of another question ({_differing(_stored(place), mine)}); give another "
        "folder by --out, or take that one away"
    )


def folder_for(asked: Mapping[str, Any], default: Path, chosen: Path | None) -> Path:
    """`place_for`, made and marked as the question's.

    Raises:
        InputError: the chosen folder has the results of another question, or cannot be written.
    """
    folder = make_folder(place_for(asked, default, chosen))
    write_json(folder / NAME, asked)
    return folder


def _stored(place: Path) -> dict[str, Any] | None:
    file = place / NAME
    if not file.is_file():
        return None
    found = read_json(file, "take it away, and the next results overwrite those beside it")
    return found if isinstance(found, dict) else {}


def _differing(there: Mapping[str, Any] | None, mine: Mapping[str, Any]) -> str:
    keys = [key for key in mine if (there or {}).get(key) != mine[key]]
    return "; ".join(f"{key}: {_text((there or {}).get(key))}" for key in keys)


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "the study's own" if value is None else str(value)


def short(text: str) -> str:
    """A model or a setting without the folders of its path, for tables that others read."""
    key, sign, value = text.partition("=")
    return f"{key}={_last(value)}" if sign else _last(text)


def _last(text: str) -> str:
    return text.rstrip("/").rpartition("/")[2]
