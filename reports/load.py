"""Reading finished run folders: summaries for tables, per-prompt scores for paired tests."""

import functools
import hashlib
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from kdbench.harness.config import NOT_HASHED
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SCHEMA, Summary
from kdbench.harness.files.store import read_rows, sha256_file
from kdbench.harness.stats import Array


class Run(NamedTuple):
    """A finished run folder and its summary."""

    folder: Path
    summary: Summary
    broken: tuple[str, ...] = ()
    """Comparison rules it breaks among the runs it is shown with (``rules.check``)."""


class PromptScores(NamedTuple):
    """Per-prompt values of one evaluation, decoding seeds averaged, in the order of ``ids``."""

    ids: tuple[str, ...]
    """``<doc_id>:<prompt_hash>``: equal ids are the same question asked in the same words."""
    values: dict[str, Array]


def find_runs(paths: Iterable[Path | str]) -> tuple[list[Run], list[str]]:
    """Finished runs among ``paths`` (run folders, or folders of run folders), by folder name.

    Returns:
        The runs, and a sentence for each folder that was left out.

    Raises:
        InputError: a path does not exist, or no finished run is there.
    """
    places = [Path(path) for path in paths]
    folders: dict[Path, None] = {}
    left_out: list[str] = []
    for path in places:
        if not path.is_dir():
            raise InputError(f"no folder {path}; give a run folder or a folder of runs")
        if _is_run(path):
            folders[path.resolve()] = None
            continue
        for child in sorted(path.iterdir()):
            if child.is_dir() and _is_run(child):
                folders[child.resolve()] = None
    runs = []
    for folder in folders:
        if (folder / "summary.json").is_file():
            runs.append(Run(folder, read_summary(folder)))
        else:
            left_out.append(f"{folder.name}: not finished")
    if not runs:
        where = ", ".join(str(path) for path in places) or "nothing"
        raise InputError(f"no finished run in {where}; make one with: kdbench run")
    runs.sort(key=lambda run: (run.folder.name, str(run.folder)))
    return runs, sorted(left_out)


def _is_run(folder: Path) -> bool:
    return (folder / "summary.json").is_file() or (folder / "config.json").is_file()


def read_summary(folder: Path) -> Summary:
    """The summary of a finished run.

    Raises:
        InputError: no summary, not a summary, or written by a newer kdbench.
    """
    path = folder / "summary.json"
    try:
        summary = Summary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: the run is not finished or not a run") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "document"
        raise InputError(
            f"{path} is no summary ({where}: {problem['msg'].lower()}); "
            "continue the run, or take its folder away"
        ) from error
    if summary.schema_version > SCHEMA:
        raise InputError(
            f"{path} has schema {summary.schema_version}, this kdbench reads up to {SCHEMA}; "
            "upgrade kdbench"
        )
    return summary


def score_file(run: Run, key: str) -> Path | None:
    """The per-prompt scores of one evaluation; None if it has none (a stock task)."""
    path = run.folder / "eval" / key / "scores.jsonl"
    return path if path.is_file() else None


def content_digest(path: Path) -> str:
    """sha256 of a file, read once while it does not change."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16384)
def _digest(path: Path, _time: int, _size: int) -> str:
    return sha256_file(path)


def prompt_scores(path: Path) -> PromptScores:
    """Per-prompt values of every metric that all rows have, in the order of documents.

    Raises:
        InputError: a row is no score row.
    """
    stat = path.stat()
    return _read_scores(path, stat.st_mtime_ns, stat.st_size)


def _fast_rows(path: Path) -> list[dict[str, Any]]:
    """``read_rows`` with one parse for the whole file; a line break is never inside a JSON row."""
    data = path.read_bytes()
    body = data[: data.rfind(b"\n") + 1].strip()
    try:
        rows = from_json(b"[" + body.replace(b"\n", b",") + b"]")
    except ValueError:
        return read_rows(path)
    return rows if all(isinstance(row, dict) for row in rows) else read_rows(path)


@functools.lru_cache(maxsize=1024)
def _read_scores(path: Path, _time: int, _size: int) -> PromptScores:
    rows = _fast_rows(path)
    try:
        rows.sort(key=lambda row: (row["doc_id"], row["prompt_hash"]))
        ids = tuple(f"{row['doc_id']}:{row['prompt_hash']}" for row in rows)
        shared = set.intersection(*(set(row["metrics"]) for row in rows)) if rows else set()
        values = {
            name: np.array([row["metrics"][name] for row in rows], dtype=float).mean(axis=1)
            for name in sorted(shared)
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has a row that is no score; run: kdbench score") from error
    return PromptScores(ids, values)


def read_config(run: Run) -> str:
    """What decides the students of a row, as canonical JSON without the training seed.

    Empty if not recorded. Out: how students are evaluated (evaluations have keys of their own), what
    is said about tuning, and what leaves a student as it is: limits of memory, where files lie.
    """
    config = _config(run)
    if config is None:
        return ""
    deciding = _deciding({name: part for name, part in config.items() if name not in _BESIDE})
    used = _manifest(run).get("data") or {}
    contents = {name: part.get("sha256") for name, part in used.items() if isinstance(part, dict)}
    return json.dumps([deciding, contents], sort_keys=True)


_BESIDE = ("tasks", "generate", "judge", "tuning")
_LEAVE = {"seed", "training_seed", "source", *NOT_HASHED}
FREE = _LEAVE | {"init_seed"}
"""Settings in which runs trained as their suite says may differ."""
_FILES = ("teacher", "student", "train", "dev", "text")
"""Settings that are names or paths: of the latter, the last part (contents are compared by hash)."""


def read_changes(run: Run) -> tuple[str, ...]:
    """What the run's command changed in the training its suite describes, as ``setting=value``.

    Settings of the method come without their section. Empty if the command is not recorded.
    """
    words = [str(word) for word in _manifest(run).get("argv") or ()]
    given = [value for word, value in pairwise(words) if word == "--set"]
    given += [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
    return tuple(sorted(_short(text) for text in given if _changes_training(text)))


def _short(assignment: str) -> str:
    """Without the method's section, and of a path the last part."""
    name, _, value = assignment.removeprefix("method.").partition("=")
    return f"{name}={value.rstrip('/').rpartition('/')[2]}"


def _changes_training(assignment: str) -> bool:
    section, _, name = assignment.partition("=")[0].partition(".")
    return section in _TRAINING and name not in FREE


_TRAINING = ("method", "train", "data", "pair", "init_sft", "teacher_sft")


def read_init(run: Run) -> tuple[str, int] | None:
    """How an evaluated init was made, as canonical JSON without its seed, and that seed.

    None where the folder does not say.
    """
    config = _config(run) or {}
    train = config.get("train") or {}
    seed = train.get("init_seed") if train.get("init_seed") is not None else train.get("seed")
    if not isinstance(seed, int) or "init_sft" not in config:
        return None
    made = {name: config.get(name) for name in ("pair", "data", "init_sft")}
    return json.dumps(_deciding(made), sort_keys=True), seed


def _config(run: Run) -> dict[str, Any] | None:
    path = run.folder / "config.json"
    return _json_object(path) if path.is_file() else None


def _manifest(run: Run) -> dict[str, Any]:
    path = run.folder / "manifest.json"
    return _json_object(path) if path.is_file() else {}


def _json_object(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON; the file was changed by hand") from error
    return config if isinstance(config, dict) else {"config": config}


def _deciding(value: object, name: str = "") -> object:
    if isinstance(value, dict):
        return {k: _deciding(v, k) for k, v in value.items() if k not in _LEAVE}
    if name in _FILES and isinstance(value, str):
        return value.rstrip("/").rpartition("/")[2]
    return value


class Identity(NamedTuple):
    """What two evaluations must share to stand in one column, and whether answers were drawn."""

    digest: str
    sampled: bool


def evaluation_identity(run: Run, key: str) -> Identity:
    """Digest of an evaluation in 8 hex digits.

    Includes task, edition, protocol, limit, data, decoding, seeds, scorer and lm-eval's version;
    excludes batch size and chunk, on which answers do not depend. The scorer is the one that made the
    summary's scores. Falls back to the key itself.
    """
    path = run.folder / "eval" / key / "evaluation.json"
    if not path.is_file():
        return Identity(key.rpartition("@")[2], True)
    try:
        record = json.loads(path.read_bytes())
        for free in ("batch_size", "chunk"):
            record.pop(free, None)
        record["scorer"] = run.summary.scores[key].scorer or record["scorer"]
        decoding = record.get("decoding", {})
    except (ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{path} is no evaluation record; it was changed by hand") from error
    text = json.dumps(record, sort_keys=True)
    # label and stock tasks read likelihoods: they have no decoding settings but a data type
    sampled = "temperature" in decoding or "max_new_tokens" in decoding
    return Identity(hashlib.sha256(text.encode()).hexdigest()[:8], sampled)
