"""How far a run is, judged by our own markers only: no scheduler's word counts."""

import contextlib
from pathlib import Path
from typing import Literal, NamedTuple

from kdbench.harness.config import RunConfig
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import EvaluationRecord, Summary
from kdbench.harness.files.store import is_done, read_record
from kdbench.harness.known import Identity, recall
from kdbench.harness.study.definition import Cell
from kdbench.tasks.catalogue import TASKS

How = Literal["to do", "partial", "cached"]


class Place(NamedTuple):
    """Where runs and what they share are, and on which device they are made."""

    runs_dir: Path
    cache_dir: Path
    data_dir: Path | None
    device: str


class State(NamedTuple):
    """How far one cell is."""

    how: How
    identity: Identity | None
    folder: Path | None
    missing: tuple[str, ...] = ()
    """What a partial run still lacks."""


def state_of(cell: Cell, place: Place) -> State:
    """Looks a cell's run up; its id is unknown until a run of the same pair and data was begun."""
    identity = recall(place.cache_dir, cell.config, device=place.device, data_dir=place.data_dir)
    if identity is None:
        return State("to do", None, None)
    folder = place.runs_dir / identity.name
    if not (folder / "config.json").is_file():
        return State("to do", identity, folder)
    missing = tuple(missing_of(folder, identity.config))
    return State("partial" if missing else "cached", identity, folder, missing)


def missing_of(folder: Path, config: RunConfig) -> list[str]:
    """What ``kdbench run`` with this configuration would still do in a run folder."""
    if not is_done(folder / "train", "train") or not (folder / "manifest.json").is_file():
        return ["training"]
    try:
        summary = read_record(folder / "summary.json", Summary)
    except InputError:
        return ["summary"]
    found = {}
    for path in sorted((folder / "eval").glob("*@*/evaluation.json")):
        with contextlib.suppress(InputError):
            record = read_record(path, EvaluationRecord)
            if path.parent.name in summary.scores and _fits(record, config):
                found[record.task] = path.parent
    missing = []
    for index, task in enumerate(config.tasks.names):
        if task not in found or not is_done(found[task], "score"):
            missing.append(task)
        elif task in TASKS:
            probes = _probes(config, task, first=index == 0)
            missing += [
                f"{probe} of {task}"
                for probe in probes
                if not is_done(found[task], f"probe-{probe}")
            ]
    return missing


def _fits(record: EvaluationRecord, config: RunConfig) -> bool:
    """Whether an evaluation is the one that a configuration asks for."""
    generate, tasks = config.generate, config.tasks
    if record.task not in TASKS:
        return record.task in tasks.names and record.limit == tasks.limit
    decoding = {
        "max_new_tokens": generate.max_new_tokens,
        "temperature": generate.temperature,
        "top_p": generate.top_p,
        "top_k": generate.top_k,
        "dtype": generate.dtype,
        "template": config.pair.template,
        "max_prompt": config.train.max_prompt,
    }
    if generate.no_repeat_ngram is not None:
        decoding["no_repeat_ngram"] = generate.no_repeat_ngram
    return (
        record.edition.partition(":")[0] == tasks.edition
        and record.protocol == tasks.protocol
        and record.limit == tasks.limit
        and record.batch_size == generate.batch_size
        and record.chunk == generate.chunk
        and tuple(record.seeds) == generate.seeds
        and all(record.decoding.get(key, value) == value for key, value in decoding.items())
    )


def _probes(config: RunConfig, task: str, *, first: bool) -> list[str]:
    """The probes a task gets: exposure on one task only, the truth where it is known."""
    wanted = []
    for probe in config.tasks.probes:
        exposed = task == "dolly" or (first and "dolly" not in config.tasks.names)
        if (probe != "exposure" or exposed) and (
            probe != "truth" or config.tasks.edition != "full"
        ):
            wanted.append(probe)
    return wanted
