"""Which tasks a name stands for, found fast: unknown ones are refused before anything is trained.

A task is one of ours (text or label words), a file of rows (``own/test.jsonl`` or ``name=path``), or
any task of lm-eval's, by its name.

lm-eval parses some 15,000 YAML files to know its names, which takes longer than a user should wait
for the answer to a typing mistake; here the files are scanned for their name lines only, without
importing lm-eval.
"""

import importlib.util
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, NamedTuple

from kdbench.harness.config import TasksConfig, file_task
from kdbench.harness.errors import InputError, unknown
from kdbench.harness.lm.declared import names_below
from kdbench.tasks.catalogue import TASKS
from kdbench.tasks.labels import LABEL_TASKS

ENTRY_POINTS = "kdbench.tasks"


class Asked(NamedTuple):
    """A task as it was asked for.

    Attributes:
        name: what tables call it.
        kind: whose it is, and how it is asked.
        place: the file of a task that is one.
    """

    name: str
    kind: Literal["text", "labels", "file", "lm-eval"]
    place: str = ""

    @property
    def in_words(self) -> bool:
        """Whether kdbench asks it and is answered in words."""
        return self.kind in ("text", "file")


def asked_tasks(names: Sequence[str], include_paths: Iterable[Path | str] = ()) -> list[Asked]:
    """What task names stand for, in the given order; of no names nothing.

    Args:
        names: as the user gave them, without editions.
        include_paths: folders with lm-eval task files beside lm-eval's own.

    Raises:
        InputError: a name is none, or is given twice; the nearest names are offered.
    """
    found = [_asked(name) for name in names]
    seen = [task.name for task in found]
    repeated = [name for name in seen if seen.count(name) > 1]
    if repeated:
        places = [task.place for task in found if task.name == repeated[0] and task.place]
        remedy = "name each task once"
        if len(set(places)) > 1:
            remedy = f"call files by names of their own, as in {repeated[0]}2={places[1]}"
        raise InputError(f"task {repeated[0]!r} is given twice; {remedy}")
    strange = [task.name for task in found if task.kind == "lm-eval"]
    if strange:
        folders = [Path(path) for path in include_paths]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(
                    f"include path {folder} is no folder; give a folder of task YAML files"
                )
        known = set().union(*map(names_below, (*_lm_eval_folders(), *folders)))
        for name in strange:
            if name not in known:
                raise unknown("task", name, (*TASKS, *LABEL_TASKS, *sorted(known)))
    return found


def _asked(text: str) -> Asked:
    file = file_task(text)
    if file is not None:
        own, path = file
        if own in TASKS or own in LABEL_TASKS or not re.fullmatch(r"[\w.-]+", own):
            raise InputError(
                f"task {text!r}: a file cannot be called {own!r} here; give it a name of its own, "
                f"as in mytest={path}"
            )
        return Asked(own, "file", path)
    if text in TASKS:
        return Asked(text, "text")
    return Asked(text, "labels" if text in LABEL_TASKS else "lm-eval")


def tasks_of(tasks: TasksConfig) -> list[Asked]:
    """`asked_tasks` of a configuration, third-party tasks included; none where it only trains.

    Raises:
        InputError: also if a task does not exist in the configured edition.
    """
    for name in tasks.names:
        if name in LABEL_TASKS and LABEL_TASKS[name].full != (tasks.edition == "full"):
            fits = [n for n, task in LABEL_TASKS.items() if task.full == (tasks.edition == "full")]
            raise InputError(
                f"task {name} does not exist in edition {tasks.edition!r}; this suite can have "
                f"{', '.join(fits)}, or choose another suite"
            )
    return asked_tasks(tasks.names, include_folders(tasks.include_path))


def include_folders(include_path: str | None = None) -> list[Path]:
    """Folders of third-party task files: the one configured, and those of installed packages.

    A package offers its own by the entry point ``[project.entry-points."kdbench.tasks"]``, whose
    value names the (sub-)package that holds the YAML files; it is found without importing it.
    """
    folders = [Path(include_path)] if include_path is not None else []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            spec = importlib.util.find_spec(point.value)
        except ModuleNotFoundError:
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"the entry point {point.name!r} of group {ENTRY_POINTS} names {point.value!r}, "
                "which is no package with task files; repair or uninstall that package"
            )
        folders += [Path(location) for location in spec.submodule_search_locations]
    return folders


def _lm_eval_folders() -> list[Path]:
    """lm-eval's own task folder, found without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    return [Path(root) / "tasks" for root in roots]
