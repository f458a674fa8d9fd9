"""Where the real data sets are: a data folder, else the Hugging Face hub.

The folder is ``--data-dir`` or the environment variable ``KDBENCH_DATA``. Both the layout of our
documentation (``dolly/train.jsonl``, ``sinst/valid_11_.jsonl``) and that of MiniLLM's own ``data/``
folder and hub repositories (``dolly/raw.jsonl`` whose first 1,000 rows are dev,
``sinst/11_/valid.jsonl``) are found.
"""

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.data import hub
from kdbench.harness.data.examples import Example, load_jsonl
from kdbench.harness.errors import InputError


class Source(NamedTuple):
    """Rows ``start`` to ``stop`` of one file; its folder names the hub repository."""

    path: str
    start: int = 0
    stop: int | None = None


class SplitFile(NamedTuple):
    """A split that was found: rows ``start`` to ``stop`` of a file on this machine."""

    path: Path
    start: int
    stop: int | None


HUB = {
    "dolly": "MiniLLM/dolly",
    "self-inst": "MiniLLM/self-inst",
    "vicuna": "MiniLLM/Vicuna",
    "sinst": "MiniLLM/sinst",
    "uinst": "MiniLLM/uinst",
}

UNNI_ROWS = 10_000  # the papers evaluate on the first 10,000 rows (LMOps scripts: --dev-num 10000)

SPLITS: dict[tuple[str, str], tuple[Source, ...]] = {
    ("dolly", "train"): (Source("dolly/train.jsonl"), Source("dolly/raw.jsonl", 1000)),
    ("dolly", "dev"): (Source("dolly/dev.jsonl"), Source("dolly/raw.jsonl", 0, 1000)),
    ("dolly", "test"): (Source("dolly/valid.jsonl"),),
    ("selfinst", "test"): (Source("self-inst/valid.jsonl"),),
    ("vicuna", "test"): (Source("vicuna/valid.jsonl"),),
    ("sni", "test"): (Source("sinst/valid_11_.jsonl"), Source("sinst/11_/valid.jsonl")),
    ("unni", "test"): (
        Source("uinst/valid_11_.jsonl", 0, UNNI_ROWS),
        Source("uinst/11_/valid.jsonl", 0, UNNI_ROWS),
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
    _check_known(task, split)
    sources = SPLITS[task, split]
    folder = data_folder(data_dir)
    if folder is not None:
        for source in sources:
            if (folder / source.path).is_file():
                return SplitFile(folder / source.path, source.start, source.stop)
    repository = HUB[sources[0].path.split("/")[0]]
    names = [source.path.split("/", 1)[1] for source in sources]
    found = hub.find_file(repository, names)
    if isinstance(found, Path):
        source = next(s for s, name in zip(sources, names, strict=True) if found.match(name))
        return SplitFile(found, source.start, source.stop)
    place = f"in {folder}" if folder else "(neither --data-dir nor KDBENCH_DATA is set)"
    wanted = " or ".join(source.path for source in sources)
    raise InputError(
        f"no {task} {split} data: looked for {wanted} {place} and for {repository} on the Hugging "
        f"Face hub ({found}); give --data-dir with that file, or connect to the network"
    )


def is_local(task: str, split: str, data_dir: Path | str | None = None) -> bool:
    """Whether a split lies in the data folder, so that reading it asks no network."""
    folder = data_folder(data_dir)
    sources = SPLITS.get((task, split), ())
    return folder is not None and any((folder / source.path).is_file() for source in sources)


def load_split(task: str, split: str, data_dir: Path | str | None = None) -> list[Example]:
    """Rows of a split, ``doc_id`` counting from 0 within it; see `find_split`."""
    return load_found(find_split(task, split, data_dir))


def load_found(found: SplitFile) -> list[Example]:
    """Rows of a located split."""
    rows = load_jsonl(found.path)[found.start : found.stop]
    if not rows:
        raise InputError(f"{found.path} has no row {found.start + 1}; the file is too short")
    return [replace(row, doc_id=index) for index, row in enumerate(rows)]


def _check_known(task: str, split: str) -> None:
    if (task, split) in SPLITS:
        return
    splits = split_names(task)
    if splits:
        raise InputError(f"{task} has no split {split!r}; choose one of {', '.join(splits)}")
    tasks = sorted({name for name, _ in SPLITS})
    near = difflib.get_close_matches(task, tasks, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(tasks)}"
    raise InputError(f"unknown data set {task!r}; {hint}")
