"""Where the real data sets are: a data folder, else the Hugging Face hub.

The folder is ``--data-dir`` or the environment variable ``KDBENCH_DATA``. Both the layout of our
documentation (``dolly/train.jsonl``, ``sinst/valid_11_.jsonl``) and that of MiniLLM's own ``data/``
folder and hub repositories (``dolly/raw.jsonl`` whose first 1,000 rows are dev,
``sinst/11_/valid.jsonl``) are found.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.data import hub
from kdbench.harness.data.examples import Example, load_jsonl
from kdbench.harness.errors import InputError, unknown


class SplitFile(NamedTuple):
    """Rows ``start`` to ``stop`` of a file. In `SPLITS`: below the data folder, or in the repository
    that its first folder names.
    """

    path: Path
    start: int = 0
    stop: int | None = None


HUB = {
    "dolly": "MiniLLM/dolly",
    "self-inst": "MiniLLM/self-inst",
    "vicuna": "MiniLLM/Vicuna",
    "sinst": "MiniLLM/sinst",
    "uinst": "MiniLLM/uinst",
}

UNNI_ROWS = 10_000  # the papers evaluate on the first 10,000 rows (LMOps scripts: --dev-num 10000)


def _file(path: str, start: int = 0, stop: int | None = None) -> SplitFile:
    return SplitFile(Path(path), start, stop)


SPLITS: dict[tuple[str, str], tuple[SplitFile, ...]] = {
    ("dolly", "train"): (_file("dolly/train.jsonl"), _file("dolly/raw.jsonl", 1000)),
    ("dolly", "dev"): (_file("dolly/dev.jsonl"), _file("dolly/raw.jsonl", 0, 1000)),
    ("dolly", "test"): (_file("dolly/valid.jsonl"),),
    ("selfinst", "test"): (_file("self-inst/valid.jsonl"),),
    ("vicuna", "test"): (_file("vicuna/valid.jsonl"),),
    ("sni", "test"): (_file("sinst/valid_11_.jsonl"), _file("sinst/11_/valid.jsonl")),
    ("unni", "test"): (
        _file("uinst/valid_11_.jsonl", 0, UNNI_ROWS),
        _file("uinst/11_/valid.jsonl", 0, UNNI_ROWS),
    ),
}


def split_names(task: str) -> list[str]:
    """Splits of a data set, for example train, dev, test of dolly; empty if it is unknown."""
    return [split for name, split in SPLITS if name == task]


def data_folder(data_dir: Path | str | None = None) -> Path | None:
    """``data_dir``, else ``KDBENCH_DATA``, else None.

    Raises:
        InputError: one is given but is no folder.
    """
    given = data_dir if data_dir is not None else os.environ.get("KDBENCH_DATA") or None
    if given is None:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        option = "--data-dir" if data_dir is not None else "KDBENCH_DATA"
        raise InputError(f"{option} {folder} is no folder; give the folder that holds dolly/ …")
    return folder


def find_split(task: str, split: str, data_dir: Path | str | None = None) -> SplitFile:
    """Locates a split.

    Args:
        task: dolly, selfinst, vicuna, sni or unni.
        split: train, dev or test; what MiniLLM calls ``valid`` is the test set.
        data_dir: folder; default `data_folder`'s.

    Raises:
        InputError: unknown task or split, or found neither in the folder nor on the hub.
    """
    if (task, split) not in SPLITS:
        splits = split_names(task)
        if splits:
            raise unknown("split", split, splits, f" of {task}")
        raise unknown("data set", task, sorted({name for name, _ in SPLITS}))
    candidates, folder = SPLITS[task, split], data_folder(data_dir)
    if (local := _local(candidates, folder)) is not None:
        return local
    repository = HUB[candidates[0].path.parts[0]]
    names = [candidate.path.relative_to(candidate.path.parts[0]) for candidate in candidates]
    found = hub.find_file(repository, map(str, names))
    if isinstance(found, Path):
        return next(
            candidate._replace(path=found)
            for candidate, name in zip(candidates, names, strict=True)
            if found.match(str(name))
        )
    place = f"in {folder}" if folder else "(neither --data-dir nor KDBENCH_DATA is set)"
    wanted = " or ".join(str(candidate.path) for candidate in candidates)
    raise InputError(
        f"no {task} {split} data: looked for {wanted} {place} and for {repository} on the Hugging "
        f"Face hub ({found}); give --data-dir with that file, or connect to the network"
    )


def _local(candidates: Sequence[SplitFile], folder: Path | None) -> SplitFile | None:
    """The first candidate that lies in the data folder."""
    places = [c._replace(path=folder / c.path) for c in candidates] if folder else []
    return next((place for place in places if place.path.is_file()), None)


def is_local(task: str, split: str, data_dir: Path | str | None = None) -> bool:
    """Whether a split lies in the data folder, so that reading it asks no network."""
    return _local(SPLITS.get((task, split), ()), data_folder(data_dir)) is not None


def load_split(task: str, split: str, data_dir: Path | str | None = None) -> list[Example]:
    """Rows of a split, ``doc_id`` counting from 0 within it; see `find_split`."""
    found = find_split(task, split, data_dir)
    rows = load_jsonl(found.path)[found.start : found.stop]
    if not rows:
        raise InputError(f"{found.path} has no row {found.start + 1}; the file is too short")
    return [replace(row, doc_id=index) for index, row in enumerate(rows)]
