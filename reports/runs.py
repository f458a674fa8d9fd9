"""Finished runs as reports read them: summaries, facts to compare, and what lies beside, by prompt."""

import functools
import math
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from kdbench.harness.errors import Damaged, InputError, unfit
from kdbench.harness.files.bundle.opening import opened
from kdbench.harness.files.records import (
    SampleRow,
    ScoreRow,
    Summary,
)
from kdbench.harness.files.reported import LARGEST
from kdbench.harness.files.run_folder import Evaluation, RunFolder, find_runs
from kdbench.harness.files.store import Say, content_hash
from kdbench.harness.metrics import learn
from kdbench.harness.stats import Array

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
PromptRow = TypeVar("PromptRow", SampleRow, ScoreRow)
_LINE = re.compile(rb'^\{"doc_id": ?(-?\d+), ?"prompt_hash": ?"([^"\\]*)".*$', re.MULTILINE)
"""A line of samples or of scores, by how it begins."""
UNFINISHED = ": not finished"
UNASKED = ": trained, and nothing was asked (kdbench eval RUN asks)"
READERS = 8
"""Threads that read and hash run folders."""
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
    """By metric; those that all prompts have, NaN where one cannot be measured."""
    reference_tokens: tuple[int, ...]


def finished_runs(paths: Iterable[Path | str]) -> tuple[list[Run], list[str]]:
    """Finished runs among ``paths`` (run folders, folders of run folders, bundles), by folder name.

    A run that is there more than once, copied or in bundles, counts once, where it was evaluated, judged
    and probed most.

    Returns:
        The runs, and each one that was left out with the reason: not finished, not readable, or another one
        of its name.

    Raises:
        InputError: a path does not exist, or no finished run is there.
    """
    places = list(paths)
    with ThreadPoolExecutor(READERS) as pool:  # hashing and reading leave Python's lock
        found = list(pool.map(_verified, find_runs(map(opened, map(Path, places)))))
    runs, unlike = _once([run for run in found if isinstance(run, Run)])
    left_out = [*(why for why in found if isinstance(why, str)), *unlike]
    learn_metrics(runs)
    if not runs:
        where = ", ".join(map(str, places)) or "nothing"
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise InputError(f"no finished run in {where}{why}; make one with: kdbench run")
    return runs, left_out


def _once(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Runs, each once although there are copies of it, and those whose copies disagree."""

    def worth(run: Run) -> tuple[int, int, int, bool, str]:
        known, whole = run.summary, not run.folder.left_out.exists()
        judged = sum(len(judge.get("evaluations", {})) for judge in known.judge.values())
        probes = sum(map(len, known.probes.values()))
        return len(known.scores), judged, probes, whole, content_hash(run.folder.summary.path)

    kept, unlike = [], []
    for name, copies in grouped(runs, lambda run: run.folder.name).items():
        best = max(copies, key=worth) if len(copies) > 1 else copies[0]
        kept.append(best)
        if any(_disagree(best.summary, copy.summary) for copy in copies):
            unlike.append(f"{name}: there {len(copies)} times with different scores, one counts")
    return kept, unlike


def learn_metrics(runs: Iterable[Run]) -> None:
    """Makes the metrics of others known as these runs together describe them."""
    learn(scores.cards for run in runs for scores in run.summary.scores.values())


def _disagree(one: Summary, two: Summary) -> bool:
    return any(one.scores[key] != two.scores[key] for key in one.scores.keys() & two.scores.keys())


def _verified(folder: RunFolder) -> Run | str:
    """A finished run, all that reports take from it being as it was written; or why it is left out.

    The scores are those that the summary was made of; whatever else is read carries its own digest.
    """
    try:
        if not folder.summary.exists():
            return f"{folder.name}{UNFINISHED}"
        summary = folder.summary.read()
        for document in (folder.config, folder.prepare, folder.manifest):
            if document.exists():
                document.check()
        for key, scores in summary.scores.items():
            evaluation = folder.evaluation(key)
            if evaluation.record.exists():
                evaluation.record.check()
            there = scores.scores_sha256 and evaluation.scores_file.exists()
            if there and scores_digest(evaluation) != scores.scores_sha256:
                raise Damaged(
                    f"{evaluation.scores_file} is not what the summary was made of; make both again "
                    f"with kdbench score {folder.name}"
                )
    except InputError as error:
        return f"{folder.name}: {str(error).replace(f'{folder.path}/', '')}"
    return Run(folder, summary)


def told_runs(paths: Iterable[Path | str], say: Say | None) -> list[Run]:
    """`finished_runs`, where ``say`` is told of each that is left out since it is damaged.

    Raises:
        InputError: a path does not exist, or no finished run is there.
    """
    runs, left_out = finished_runs(paths)
    if say is not None:
        for reason in damaged(left_out):
            say(reason)
    return runs


def damaged(left_out: Iterable[str]) -> list[str]:
    """Those of `finished_runs`' reasons that are no mere lack of an end."""
    return [reason for reason in left_out if not reason.endswith((UNFINISHED, UNASKED))]


def without_unasked(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Runs without those that were trained only, such as the trials of a search: rows of nothing.

    Returns:
        The others, and a line on how many there are; all of them where no run was asked anything.
    """
    asked = [run for run in runs if _asked(run.summary)]
    count = len(runs) - len(asked)
    if not count or not asked:
        return list(runs), []
    return asked, [f"{count} run{'s' if count > 1 else ''}{UNASKED}"]


def _asked(known: Summary) -> bool:
    return bool(known.scores or known.probes or known.judge)


# -- prompt by prompt -----------------------------------------------------------------------------


def prompt_scores(evaluation: Evaluation) -> PromptScores:
    """Per-prompt values of every metric that all rows have or cannot have (NaN), by document.

    Raises:
        InputError: a row is no score row.
    """
    return _read_scores(evaluation.scores_file, scores_digest(evaluation))


def scores_digest(evaluation: Evaluation) -> str:
    """sha256 of the per-prompt scores, read once while they do not change."""
    return content_hash(evaluation.scores_file)


def scores(evaluation: Evaluation, wanted: Collection[str] | None = None) -> dict[str, ScoreRow]:
    """Stored scores by prompt id, in stored order; only the ``wanted`` ones, or all."""
    path = evaluation.scores_file
    return prompt_rows(path, ScoreRow, prompt_lines(path, wanted))


def answers(
    evaluation: Evaluation, seed: int, wanted: Collection[str] | None = None
) -> dict[str, SampleRow]:
    """Stored answers of one decoding seed by prompt id; only the ``wanted`` ones, or all."""
    path = evaluation.samples_file(seed)
    return prompt_rows(path, SampleRow, prompt_lines(path, wanted))


def prompt_id(row: SampleRow | ScoreRow) -> str:
    """See ``PromptScores.ids``."""
    return f"{row.doc_id}:{row.prompt_hash}"


def score_of(row: ScoreRow | None, metric: str, seed: int) -> float | None:
    """What the answer of one decoding seed scored; None: it was not scored."""
    if row is None or seed not in row.seeds or not row.metrics.get(metric):
        return None
    return row.metrics[metric][row.seeds.index(seed)]


def prompt_lines(path: Path, wanted: Collection[str] | None = None) -> dict[str, bytes]:
    """Lines of stored scores or samples by prompt id, not parsed: of thousands few will be shown.

    Raises:
        InputError: a line is neither.
    """
    data = path.read_bytes() if path.is_file() else b""
    data = data[: data.rfind(b"\n") + 1]  # without what a kill left of a line
    found: dict[str, bytes] = {}
    lines = 0
    for match in _LINE.finditer(data):
        lines += 1
        name = b":".join(match.groups()).decode()
        if (wanted is None or name in wanted) and name not in found:
            found[name] = match[0]
    if lines < data.count(b"\n"):
        raise InputError(f"{path} has a line that kdbench did not write; {_REMEDY}")
    return found


def prompt_rows(
    path: Path, model: type[PromptRow], lines: Mapping[str, bytes]
) -> dict[str, PromptRow]:
    """Lines of a file as rows; an InputError names the file."""
    try:
        return {name: model.model_validate_json(line) for name, line in lines.items()}
    except ValidationError as error:
        raise InputError(f"{unfit(path, error)}; {_REMEDY}") from error


@functools.lru_cache(maxsize=1024)
def _read_scores(path: Path, _content: str) -> PromptScores:
    data = path.read_bytes()
    body = data[: data.rfind(b"\n") + 1].strip()
    try:  # one parse for the whole file: a line break is never inside a JSON row
        rows = from_json(b"[" + body.replace(b"\n", b",") + b"]")
        rows.sort(key=lambda row: (row["doc_id"], row["prompt_hash"]))
        told = [row["metrics"].keys() | row.get("missing", {}).keys() for row in rows]
        shared = set.intersection(*told) if rows else set()
        there = set().union(*(row["metrics"] for row in rows))
        return PromptScores(
            ids=tuple(f"{row['doc_id']}:{row['prompt_hash']}" for row in rows),
            values={
                name: _prompt_values([row["metrics"].get(name) for row in rows])
                for name in sorted(shared & there)
            },
            reference_tokens=tuple(int(row["reference_tokens"]) for row in rows),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path} has a row that is no score; run: kdbench score") from error


def _prompt_values(found: Sequence[Sequence[float] | None]) -> Array:
    """Means over decoding seeds; not a number where a metric cannot measure a prompt."""
    seeds = next(len(values) for values in found if values is not None)
    gap = [math.nan] * seeds
    values = np.array([gap if values is None else values for values in found], dtype=float)
    if (np.abs(values) > LARGEST).any():
        raise ValueError("a number that cannot be measured")
    return values.mean(axis=1)


def grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Things by what they have in common, in order of first appearance."""
    groups: dict[K, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups
