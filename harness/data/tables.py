"""Rows as files hold them, whatever the format: text is taken as it stands, byte for byte.

JSON, CSV and Parquet are read here rather than by `datasets`, which guesses types (``001`` becomes a
number, ``NA`` nothing, a date a time stamp); saved data sets and the hub's are read by it.
"""

import bz2
import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.data import hub
from kdbench.harness.data.places import ENDINGS, PACKED, Place, ending
from kdbench.harness.errors import InputError, unknown
from kdbench.harness.files.store import objects, reading
from kdbench.harness.foreign import foreign

ALIASES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val", "eval"),
    "test": ("test", "testing"),
}
"""How splits are called by what they are for."""

CHATS = ("messages", "conversations", "conversation")
"""Columns that hold a conversation."""

_OTHERS = {
    ".xlsx": "save the sheet as CSV",
    ".xls": "save the sheet as CSV",
    ".txt": "plain text without questions is data.text; else write JSON Lines",
    ".md": "plain text without questions is data.text; else write JSON Lines",
    ".zip": "unpack it, and name the file inside",
    ".tar": "unpack it, and name the file inside",
    ".tgz": "unpack it, and name the file inside",
    ".xz": "pack it by gzip or zstd",
    ".pkl": "a pickle can run code; write JSON Lines or Parquet",
    ".pt": "a pickle can run code; write JSON Lines or Parquet",
    ".yaml": "write JSON Lines",
}

csv.field_size_limit(1 << 30)

Row = tuple[str, Mapping[str, Any]]
"""Where it is, and its values by column."""


class Table(NamedTuple):
    """Rows of one split.

    Attributes:
        format: in words, as ``JSON Lines, gzip``.
        rows: in the order of the file.
        split: which one, where there are several.
    """

    format: str
    rows: list[Row]
    split: str = ""


def read_table(place: Place, wanted: str) -> Table | None:
    """The rows of a place.

    Args:
        place: file, folder or data set of the hub.
        wanted: train, dev or test: which split is meant where the place names none.

    Returns:
        None: it has splits, and none of them is for this.

    Raises:
        InputError: nothing there, no format of ours, damaged, or several splits that could be meant.
    """
    if place.hub:
        return _of_hub(place, wanted)
    path = Path(place.path).expanduser()
    if path.is_dir():
        return _of_folder(path, place.split, wanted)
    if place.split:
        if not path.exists():
            raise _missing(path)
        raise InputError(f"{path} is one file and has no split {place.split!r}; leave it out")
    return _of_file(path)


def _missing(path: Path) -> InputError:
    return InputError(f"cannot read {path}: no such file or folder; give an existing one")


# -- files ----------------------------------------------------------------------------------------


def _of_file(path: Path) -> Table:
    kind, packed = ending(str(path))
    if not path.exists():
        raise _missing(path)
    if not kind:
        remedy = _OTHERS.get(path.suffix.lower(), f"give one of {', '.join(ENDINGS)}, or a folder")
        raise InputError(f"{path} is in no format of rows that is read; {remedy}")
    with reading(path):
        data = path.read_bytes()
    if packed:
        with foreign(f"cannot unpack {path}", "pack it again"):
            data = _unpacked(data, packed)
    name, rows = _READERS[kind](data, path)
    return Table(f"{name}, {PACKED[packed]}" if packed else name, rows)


def _unpacked(data: bytes, packed: str) -> bytes:
    if packed == ".gz":
        return gzip.decompress(data)
    if packed == ".bz2":
        return bz2.decompress(data)
    import pyarrow as pa

    with pa.input_stream(io.BytesIO(data), compression="zstd") as stream:
        found: bytes = stream.read()
    return found


def _json(data: bytes, path: Path) -> tuple[str, list[Row]]:
    """JSON Lines, one array, or one object with a list of rows, whichever it is."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    start = data.lstrip()[:1]
    if start == b"[" or (start == b"{" and not _is_object(data.lstrip().split(b"\n", 1)[0])):
        return _whole(data, path)
    lines = [(f"{path}:{number}", row) for number, row in objects(data, path)]
    if len(lines) == 1 and (inside := _lists_of(lines[0][1])) is not None:
        return _listed(*inside, path)
    return "JSON Lines", lines  # type: ignore[return-value]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _whole(data: bytes, path: Path) -> tuple[str, list[Row]]:
    try:
        value = json.loads(data)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{path} is not valid JSON (nested too deeply); repair it") from error
    except json.JSONDecodeError as error:
        if data.lstrip()[:1] == b"{" or data.rstrip()[-1:] != b"]":
            list(objects(data, path))  # says which line is wrong, if it was meant as JSON Lines
        raise InputError(
            f"{path} is not valid JSON ({error.msg} at line {error.lineno}, column {error.colno}); "
            "repair it"
        ) from error
    if isinstance(value, list):
        return _listed("", value, path)
    inside = _lists_of(value)
    return _listed(*inside, path) if inside is not None else ("JSON object", [(str(path), value)])


def _lists_of(value: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """The one list of rows inside an object, with its key; None: the object is a row itself."""
    lists = {key: v for key, v in value.items() if isinstance(v, list) and v}
    rows = {key: v for key, v in lists.items() if all(isinstance(each, dict) for each in v)}
    if any(key in CHATS or key in ("prompt", "completion") for key in rows):
        return None
    return next(iter(rows.items())) if len(rows) == 1 else None


def _listed(key: str, values: list[Any], path: Path) -> tuple[str, list[Row]]:
    rows: list[Row] = []
    for number, value in enumerate(values, start=1):
        where = f"{path}, row {number}"
        if not isinstance(value, dict):
            raise InputError(
                f"{where} of its JSON array is a {type(value).__name__}, not an object; write one "
                "object a row"
            )
        rows.append((where, value))
    return f"JSON object with a list {key!r}" if key else "JSON array", rows


def _separated(data: bytes, path: Path) -> tuple[str, list[Row]]:
    """CSV, its separator found in its first line (comma, semicolon or tab); quotes as RFC 4180."""
    with reading(path):
        text = data.decode("utf-8-sig")
    tabs = ending(str(path))[0] == ".tsv"
    head = text.split("\n", 1)[0]
    mark = "\t" if tabs else max(",;\t", key=lambda each: (head.count(each), each == ","))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    names: list[str] = []
    rows: list[Row] = []
    try:
        for fields in reader:
            where = f"{path}:{reader.line_num}"
            if not names:
                names = [name.strip() for name in fields]
            elif fields and len(fields) != len(names):
                raise InputError(
                    f"{where} has {len(fields)} fields where the first line names {len(names)} columns; "
                    "put texts that hold the separator or a line end in double quotes"
                )
            elif fields:
                rows.append((where, dict(zip(names, fields, strict=True))))
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num} is not valid CSV ({error}); put texts in double quotes, and "
            "double the quotes in them"
        ) from error
    return "TSV" if tabs else "CSV", rows


def _parquet(data: bytes, path: Path) -> tuple[str, list[Row]]:
    from pyarrow import parquet

    with foreign(f"cannot read {path} as Parquet", "write it again"):
        table = parquet.read_table(io.BytesIO(data))
    return "Parquet", _numbered(table.to_pylist(), str(path))


def _arrow(data: bytes, path: Path) -> tuple[str, list[Row]]:
    from pyarrow import ipc

    open_ = ipc.open_file if data.startswith(b"ARROW1") else ipc.open_stream
    with foreign(f"cannot read {path} as Arrow", "write it again"):
        table = open_(io.BytesIO(data)).read_all()
    return "Arrow", _numbered(table.to_pylist(), str(path))


def _numbered(rows: Iterable[Mapping[str, Any]], where: str) -> list[Row]:
    return [(f"{where}, row {number}", row) for number, row in enumerate(rows, start=1)]


_READERS: dict[str, Callable[[bytes, Path], tuple[str, list[Row]]]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
    ".arrow": _arrow,
}


# -- folders and the hub --------------------------------------------------------------------------


def _of_folder(path: Path, split: str, wanted: str) -> Table | None:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved(path, split, wanted)
    files = [
        each
        for each in sorted(path.rglob("*"))
        if each.is_file() and ending(each.name)[0] and not _aside(each.relative_to(path))
    ]
    if not files:
        raise InputError(
            f"{path} is no saved data set and holds no file of rows ({', '.join(ENDINGS)})"
        )
    named: dict[str, list[Path]] = {}
    for file in files:
        named.setdefault(_split_in(file.relative_to(path)), []).append(file)
    name = ""
    if set(named) != {""}:
        chosen = chosen_split(list(filter(None, named)), split, wanted, str(path))
        if chosen is None:
            return None
        name = chosen
    elif split:
        raise InputError(f"no file of {path} is named after a split {split!r}; leave it out")
    tables = [_of_file(file) for file in named[name]]
    formats = ", ".join(dict.fromkeys(table.format for table in tables))
    said = f"folder of {len(tables)} file{'s' * (len(tables) > 1)}, {formats}"
    return Table(said, [row for table in tables for row in table.rows], name)


def _aside(path: Path) -> bool:
    """Files that describe rows, and caches beside them."""
    return any(part.startswith((".", "cache-")) for part in path.parts) or path.name in (
        "dataset_info.json",
        "dataset_infos.json",
        "metadata.json",
    )


_SPLIT = re.compile(
    rf"(?:^|[-_./])({'|'.join(name for names in ALIASES.values() for name in names)})(?:[-_./]|$)"
)


def _split_in(path: Path) -> str:
    """The split that a file is named after, or the folder it is in; else nothing."""
    found = _SPLIT.findall(path.as_posix().lower())
    return found[-1] if found else ""


def _saved(path: Path, split: str, wanted: str) -> Table | None:
    import datasets

    with foreign(f"cannot read {path} as a saved data set", "save it again"):
        found = datasets.load_from_disk(str(path))
    if not isinstance(found, datasets.DatasetDict):
        if split:
            raise InputError(f"{path} is one data set and has no split {split!r}; leave it out")
        return Table("saved Dataset", _plain(found, str(path)))
    name = chosen_split(list(found), split, wanted, str(path))
    if name is None:
        return None
    return Table("saved DatasetDict", _plain(found[name], f"{path}:{name}"), name)


def _plain(dataset: Any, where: str) -> list[Row]:
    """Rows as they are stored: pictures stay bytes."""
    return _numbered(dataset.with_format(None).to_list(), where)


def _of_hub(place: Place, wanted: str) -> Table | None:
    import datasets
    from huggingface_hub import constants

    name = place.path + (f":{place.config}" if place.config else "")
    remedy = "give a file or folder, or connect to the network"
    if not constants.HF_HUB_OFFLINE and not hub.reachable():
        raise InputError(
            f"there is no file or folder {place.path}, and the Hugging Face hub does not answer for a data "
            f"set of that name; {remedy}"
        )
    what = (
        f"there is no file or folder {place.path}, and no data set {name} from the Hugging Face hub"
    )
    with foreign(what, remedy):
        found = datasets.load_dataset(place.path, place.config or None)
    split = chosen_split(list(found), place.split, wanted, name)
    if split is None:
        return None
    return Table("data set of the hub", _plain(found[split], f"{name}:{split}"), split)


def chosen_split(names: list[str], given: str, wanted: str, where: str) -> str | None:
    """Which of several splits is meant.

    Args:
        names: all there are.
        given: by name; empty: what fits.
        wanted: train, dev or test; the only split is everybody's but dev's.
        where: for messages.

    Returns:
        None: there are splits, and none fits.

    Raises:
        InputError: there is no such split, or several fit.
    """
    if given:
        if given not in names:
            raise unknown("split", given, names, f" in {where}")
        return given
    exact = [name for alias in ALIASES[wanted] for name in names if name.lower() == alias]
    fitting = exact[:1] or [name for name in names if name.lower().startswith(ALIASES[wanted])]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and len(names) == 1 and wanted != "dev":
        return names[0]
    if not fitting and wanted == "dev":
        return None
    raise InputError(
        f"{where} has the splits {', '.join(names)}; say which of them is for {wanted}, as in "
        f"{where}::{(fitting or names)[0]}"
    )
