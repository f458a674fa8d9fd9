"""What can be taken away without changing what a board, a comparison or ``kdbench show`` says.

Of a finished run: what only resuming needed, and (asked for by name) the weights of its student; of the
cache: shared results, which are made again by whoever needs them. A run that is being written is left alone.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.errors import InputError, RunLocked, unknown
from kdbench.harness.files.costs import ENDING
from kdbench.harness.files.inside import inside
from kdbench.harness.files.locks import RunLock, lock_holder, was_killed
from kdbench.harness.files.run_folder import RunFolder, Training
from kdbench.harness.files.stages import Stage

CLEANED = "cleaned"
"""Field of a training's marker: the stamps of weights that were taken away."""
WEIGHTS = (".safetensors",)
CACHE = {
    "teachers": "teachers: fine-tuned, or of the generated world; made again when a run needs one",
    "inits": "students after their SFT, from which methods start; made again when a run needs one",
    "base": "students before any training: pruned, or random by a seed; made again when needed",
    "teacher-asked": "what a teacher behind an endpoint said, and what it cost; asked again when needed",
    "teacher-answers": "a teacher's answers to training prompts; drawn again when a method needs them",
    "teacher-store": "what a teacher gives at training rows (hidden states); computed again when needed",
    "teacher-heads": "heads of teachers, for stores; copied again when needed",
    "preflight": "what was tried of models and pairs; tried again, in seconds",
    "world": "rows of the generated world; made again, in seconds",
    "known": "which ids a configuration has; looked up again",
    "studies": "studies written out as runs; written again, in seconds",
    "board": "paired tests of boards; made again, in seconds to minutes",
}
"""Kinds of shared results, by the folder of the cache that holds them, and what taking one away costs."""
ABOUT = "README.txt"
HOLDS = "holds.txt"
"""File of a shared training that says in a line what it is."""


class Waste(NamedTuple):
    """Something that can go.

    Attributes:
        kind: leftovers, students, or a kind of the cache.
        path: a file or a folder.
        what: in words.
        size: bytes.
        run: whose student or leftover; None of the cache.
    """

    kind: str
    path: Path
    what: str
    size: int
    run: RunFolder | None = None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.lstat().st_size for file in files)


# -- runs -----------------------------------------------------------------------------------------


def waste_of_run(run: RunFolder) -> Iterator[Waste]:
    """What can go of a finished run; nothing of one that goes on, or is not over."""
    with contextlib.suppress(InputError):
        if lock_holder(run.path) is not None or not (run.marked() and run.summary.exists()):
            return
        checkpoints = inside(run.training.path, "checkpoints")
        if checkpoints.is_dir():
            yield _waste("leftovers", checkpoints, "checkpoints of a training that is over", run)
        for ledger in sorted(run.path.rglob(f"*{ENDING}")):
            if Stage(ledger.parent, ledger.name.removesuffix(ENDING)).file.is_file():
                yield _waste("leftovers", ledger, "times of a stage that is over", run)
        if was_killed(run.path):
            yield _waste(
                "leftovers", inside(run.path, "lock"), "lock of a process that is gone", run
            )
        for weights in _weights(run.training):
            yield _waste("students", weights, "weights of the student", run)


def _waste(kind: str, path: Path, what: str, run: RunFolder | None = None) -> Waste:
    return Waste(kind, path, what, size_of(path), run)


def _weights(training: Training) -> list[Path]:
    folder = training.student
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in WEIGHTS)


def lost_weights(student: Path) -> bool:
    """Whether the weights of this student's folder were taken away by `remove`."""
    stage = Training(student.parent).stage
    return bool(stage.file.is_file() and stage.info().get(CLEANED)) and not any(
        p.suffix in WEIGHTS for p in student.iterdir()
    )


def _forget(training: Training) -> None:
    """The marker of a training without its weights; what they were stays written down."""
    stage = training.stage
    marker = stage.marker()
    if marker is None:
        return
    whole = training.student.name  # an adapter stays
    weights = {
        n: s
        for n, s in marker.outputs.items()
        if Path(n).suffix in WEIGHTS and Path(n).parent.name == whole
    }
    gone = {name: stamp.model_dump() for name, stamp in weights.items()}
    if not gone:
        return
    stage.mark(
        [name for name in marker.outputs if name not in weights],
        {**marker.info, CLEANED: marker.info.get(CLEANED, {}) | gone},
        finished=marker.finished,
    )


# -- the cache ------------------------------------------------------------------------------------


def waste_of_cache(cache: Path) -> Iterator[Waste]:
    """Shared results, a folder or file each, but for those that a process is making."""
    for kind, what in CACHE.items():
        place = cache / kind
        entries = sorted(place.iterdir()) if place.is_dir() else []
        for entry in entries:
            if entry.name.startswith(".") or entry.name == ABOUT:
                continue
            busy = entry.is_dir() and lock_holder(entry) is not None
            if not busy:
                yield _waste(kind, entry, _holds(entry) or what)


def _holds(entry: Path) -> str:
    file = entry / HOLDS
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    return ""


def cache_kinds(names: Iterable[str]) -> list[str]:
    """Kinds of the cache by name; ``all`` is all of them.

    Raises:
        InputError: there is no such kind.
    """
    found = list(names)
    for name in found:
        if name not in CACHE and name != "all":
            raise unknown("kind of shared results", name, ["all", *CACHE])
    return list(CACHE) if "all" in found else found


# -- removal --------------------------------------------------------------------------------------


def remove(waste: Iterable[Waste]) -> list[str]:
    """Takes it away; returns what could not be, each with the reason.

    Weights are first taken out of the marker of their training, so that a kill in between leaves a run
    whose student is there, or one that says that it is not.
    """
    problems = []
    for each in waste:
        try:
            if each.run is None:
                with _held(each.path):
                    _delete(each.path)
                continue
            with RunLock(each.run.path):
                if each.kind == "students":
                    _forget(each.run.training)
                _delete(each.path)
        except (OSError, RunLocked) as error:
            problems.append(f"{each.path}: {error}")
    return problems


@contextlib.contextmanager
def _held(entry: Path) -> Iterator[None]:
    """Nobody makes a shared result while it goes."""
    if entry.is_dir() and Training(entry).stage.file.is_file():
        with RunLock(entry.parent, name=f".{entry.name}.lock"), RunLock(entry):
            yield
    else:
        with RunLock(entry.parent, name=f".{entry.name}.lock"):
            yield


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
