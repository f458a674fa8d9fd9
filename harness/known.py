"""What a run's models and data were found to contain, remembered, so that its id is known at once.

Finding it out means loading (on the mini world: making) both models and reading all data. `prepare`
does that in any case and leaves the result here; studies and listings look it up. A memory holds
only while the files it was made from are as they were.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.config import Precision, RunConfig, run_id, run_name, with_precision
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record
from kdbench.harness.files.store import read_record, write_json
from kdbench.harness.provenance import source_folders, tree_sha256


class Known(Record):
    """One memory."""

    fingerprints: dict[str, str]
    precision: Precision
    """What ``auto`` means on the machine and device it was found out for."""
    stamps: dict[str, list[int]]
    """Files looked at: size and time of change."""


class Identity(NamedTuple):
    """Which run a configuration stands for."""

    config: RunConfig
    """With precision resolved."""
    id: str

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return run_name(self.config, self.id)


def remember(
    cache: Path,
    asked: RunConfig,
    resolved: RunConfig,
    fingerprints: dict[str, str],
    files: Iterable[Path | str],
    *,
    device: str,
    data_dir: Path | None,
) -> None:
    """Keeps what was found out about ``asked``; a cache that cannot be written costs time only.

    Args:
        cache: folder shared by runs.
        asked: the configuration before its precision was resolved.
        resolved: the same after.
        fingerprints: as of `run_id`.
        files: files and folders that they were computed from.
        device: as asked for.
        data_dir: folder of real data sets.
    """
    found = [*files, *_data_files(asked, data_dir)]
    known = Known(
        fingerprints=fingerprints, precision=resolved.train.precision, stamps=_stamps(found)
    )
    with contextlib.suppress(InputError):
        write_json(_path(cache, asked, device, data_dir), known)


def recall(cache: Path, asked: RunConfig, *, device: str, data_dir: Path | None) -> Identity | None:
    """The run that ``asked`` stands for; None if nobody has prepared its like yet."""
    path = _path(cache, asked, device, data_dir)
    if not path.is_file():
        return None
    with contextlib.suppress(InputError):
        known = read_record(path, Known)
        if known.stamps == _stamps(known.stamps):
            config = with_precision(asked, known.precision)
            return Identity(config, run_id(config, known.fingerprints))
    return None


def _path(cache: Path, asked: RunConfig, device: str, data_dir: Path | None) -> Path:
    """Where the memory of a configuration is: named by all that its fingerprints follow from."""
    seed = asked.train.seed_of_init
    parts = {
        "pair": asked.pair.model_dump(mode="json"),
        "data": asked.data.model_dump(mode="json"),
        "precision": asked.train.precision,
        "init_seed": seed,
        "device": device,
        "data_dir": str(data_dir.resolve()) if data_dir else None,
        "here": os.getcwd(),
        "world": _world_sources(),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache / "known" / f"{digest[:32]}.json"


def _data_files(config: RunConfig, data_dir: Path | None) -> list[Path]:
    names = [n for n in (config.data.train, config.data.dev, config.data.text) if n]
    places = [Path(n) for n in names] + [data_dir / n for n in names if data_dir]
    return [place for place in places if place.exists()]


def _stamps(paths: Iterable[Path | str]) -> dict[str, list[int]]:
    """Size and time of change of files and of all files in folders; -1 for what is gone."""
    stamps = {}
    for path in map(Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                stat = file.stat()
                stamps[str(file)] = [stat.st_size, stat.st_mtime_ns]
            except OSError:
                stamps[str(file)] = [-1, -1]
    return stamps


@functools.cache
def _world_sources() -> str:
    """Hash of the generated world's code, from which its models and data follow."""
    return tree_sha256({"mini": source_folders()["tasks"] / "mini"})
