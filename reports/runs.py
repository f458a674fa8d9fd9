"""Finished runs as reports read them: summaries, and what lies beside them prompt by prompt."""

import functools
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from kdbench.harness.errors import InputError, unfit
from kdbench.harness.files.records import SampleRow, ScoreRow, Summary
from kdbench.harness.files.run_folder import Evaluation, RunFolder, find_runs
from kdbench.harness.files.store import sha256_file
from kdbench.harness.stats import Array

PromptRow = TypeVar("PromptRow", SampleRow, ScoreRow)
_PROMPT = re.compile(rb'\{"doc_id": ?(-?\d+), ?"prompt_hash": ?"([^"\\]*)"')
"""How a line of samples and of scores begins."""
_REMEDY = "run: kdbench score, or kdbench eval"


class Run(NamedTuple):
    """A finished run folder and its summary."""

    folder: RunFolder
    summary: Summary
    broken: tuple[str, ...] = ()
    """Comparison rules it breaks among the runs it is shown with (``rules.check``)."""


class PromptScores(NamedTuple):
    """Per-prompt values of one evaluation, decoding seeds averaged, in the order of ``ids``."""

    ids: tuple[str, ...]
    """``<doc_id>:<prompt_hash>``: equal ids are the same question asked in the same words."""
    values: dict[str, Array]
    """By metric; those that all prompts have."""
    reference_tokens: tuple[int, ...]


def finished_runs(
    paths: Iterable[Path | str], wanted: Callable[[RunFolder], bool] = lambda run: True
) -> tuple[list[Run], list[str]]:
    """Finished runs among ``paths`` (run folders, or folders of run folders), by folder name.

    Args:
        paths: where to look.
        wanted: which run folders to read at all.

    Returns:
        The runs, and each one that was left out with the reason: not finished, or not readable.

    Raises:
        InputError: a path does not exist, or no finished run is there.
    """
    places = list(paths)
    runs, left_out = [], []
    for folder in filter(wanted, find_runs(places)):
        if not folder.summary.exists():
            left_out.append(f"{folder.name}: not finished")
            continue
        try:
            runs.append(Run(folder, folder.summary.read()))
        except InputError as error:
            left_out.append(f"{folder.name}: {str(error).replace(f'{folder.path}/', '')}")
    if not runs:
        where = ", ".join(map(str, places)) or "nothing"
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise InputError(f"no finished run in {where}{why}; make one with: kdbench run")
    return runs, left_out


# -- prompt by prompt -----------------------------------------------------------------------------


def prompt_scores(evaluation: Evaluation) -> PromptScores:
    """Per-prompt values of every metric that all rows have, in the order of documents.

    Raises:
        InputError: a row is no score row.
    """
    return _read_scores(evaluation.scores_file, *_state(evaluation.scores_file))


def scores_digest(evaluation: Evaluation) -> str:
    """sha256 of the per-prompt scores, read once while they do not change."""
    return _digest(evaluation.scores_file, *_state(evaluation.scores_file))


def scores(evaluation: Evaluation, wanted: Collection[str] | None = None) -> dict[str, ScoreRow]:
    """Stored scores by prompt id, in stored order; only the ``wanted`` ones, or all."""
    return _rows(evaluation.scores_file, ScoreRow, wanted)


def answers(
    evaluation: Evaluation, seed: int, wanted: Collection[str] | None = None
) -> dict[str, SampleRow]:
    """Stored answers of one decoding seed by prompt id; only the ``wanted`` ones, or all."""
    return _rows(evaluation.samples_file(seed), SampleRow, wanted)


def prompt_id(row: SampleRow | ScoreRow) -> str:
    """See ``PromptScores.ids``."""
    return f"{row.doc_id}:{row.prompt_hash}"


def score_of(row: ScoreRow | None, metric: str, seed: int) -> float | None:
    """What the answer of one decoding seed scored; None: it was not scored."""
    if row is None or seed not in row.seeds or not row.metrics.get(metric):
        return None
    return row.metrics[metric][row.seeds.index(seed)]


def prompt_lines(path: Path) -> dict[str, bytes]:
    """Lines of stored scores or samples by prompt id, not parsed: of thousands few will be shown.

    Raises:
        InputError: a line is neither.
    """
    data = path.read_bytes() if path.is_file() else b""
    found: dict[str, bytes] = {}
    for line in data[: data.rfind(b"\n")].split(b"\n") if data else ():
        match = _PROMPT.match(line)
        if match is None:
            raise InputError(f"{path} has a line that kdbench did not write; {_REMEDY}")
        found.setdefault(f"{match[1].decode()}:{match[2].decode()}", line)
    return found


def _rows(
    path: Path, model: type[PromptRow], wanted: Collection[str] | None
) -> dict[str, PromptRow]:
    lines = prompt_lines(path)
    kept = lines if wanted is None else [name for name in lines if name in wanted]
    try:
        return {name: model.model_validate_json(lines[name]) for name in kept}
    except ValidationError as error:
        raise InputError(f"{unfit(path, error)}; {_REMEDY}") from error


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file does."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=16384)
def _digest(path: Path, _time: int, _size: int) -> str:
    return sha256_file(path)


@functools.lru_cache(maxsize=1024)
def _read_scores(path: Path, _time: int, _size: int) -> PromptScores:
    data = path.read_bytes()
    body = data[: data.rfind(b"\n") + 1].strip()
    try:  # one parse for the whole file: a line break is never inside a JSON row
        rows = from_json(b"[" + body.replace(b"\n", b",") + b"]")
        rows.sort(key=lambda row: (row["doc_id"], row["prompt_hash"]))
        shared = set.intersection(*(set(row["metrics"]) for row in rows)) if rows else set()
        return PromptScores(
            ids=tuple(f"{row['doc_id']}:{row['prompt_hash']}" for row in rows),
            values={
                name: np.array([row["metrics"][name] for row in rows], dtype=float).mean(axis=1)
                for name in sorted(shared)
            },
            reference_tokens=tuple(row["reference_tokens"] for row in rows),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has a row that is no score; run: kdbench score") from error
