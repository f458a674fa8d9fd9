"""Which task names exist, found fast: unknown ones are refused before anything is trained.

lm-eval parses some 15,000 YAML files to know its names, which takes longer than a user should wait
for the answer to a typing mistake; here the files are scanned for their name lines only, without
importing lm-eval.
"""

import importlib.util
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from kdbench.harness.config import TasksConfig
from kdbench.harness.errors import InputError
from kdbench.tasks.catalogue import TASKS, unknown_task
from kdbench.tasks.labels import LABEL_TASKS

ENTRY_POINTS = "kdbench.tasks"

_NAME = re.compile(rb"^[\"']?(?:task|group|tag)[\"']?:[ \t]*[\"']?([^\s\"'\[\]#]+)", re.MULTILINE)
_LISTED = re.compile(
    rb"^[\"']?tag[\"']?:[ \t]*\r?\n((?:[ \t]*-[ \t]*\S+[ \t]*\r?\n?)+)", re.MULTILINE
)
_INLINE = re.compile(rb"^[\"']?tag[\"']?:[ \t]*\[([^\]]*)\]", re.MULTILINE)


def check_task_names(
    names: Sequence[str], include_paths: Iterable[Path | str] = ()
) -> tuple[list[str], list[str]]:
    """Parts task names into ours and lm-eval's.

    Args:
        names: as the user gave them, without editions.
        include_paths: folders with lm-eval task files beside lm-eval's own.

    Returns:
        (our text tasks, other lm-eval tasks), each in the given order.

    Raises:
        InputError: a name is neither, or is given twice; the nearest names are offered.
    """
    if not names:
        raise InputError(f"no tasks given; choose from {', '.join(TASKS)} or any lm-eval task")
    repeated = [name for name in names if list(names).count(name) > 1]
    if repeated:
        raise InputError(f"task {repeated[0]!r} is given twice; name each task once")
    ours = [name for name in names if name in TASKS]
    others = [name for name in names if name not in TASKS]
    strange = [name for name in others if name not in LABEL_TASKS]
    if not strange:
        return ours, others
    folders = [Path(path) for path in include_paths]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"include path {folder} is no folder; give a folder of task YAML files"
            )
    known = set().union(*map(names_below, (*_lm_eval_folders(), *folders)))
    for name in strange:
        if name not in known:
            raise InputError(unknown_task(name, (*TASKS, *LABEL_TASKS, *sorted(known))))
    return ours, others


def check_tasks(tasks: TasksConfig) -> tuple[list[str], list[str]]:
    """`check_task_names` of a configuration, third-party tasks included.

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
    return check_task_names(tasks.names, include_folders(tasks.include_path))


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


@cache
def names_below(folder: Path) -> frozenset[str]:
    """Task, group and tag names that the YAML files below a folder declare."""
    names: set[bytes] = set()
    for path in folder.glob("**/*"):
        # lm-eval includes files of any name, and some of its own, without a suffix, declare tags
        if path.suffix not in {"", ".yaml", ".yml"} or not path.is_file():
            continue
        text = path.read_bytes()
        names.update(_NAME.findall(text))
        for block in _LISTED.findall(text):
            names.update(line.split(b"-", 1)[1].strip(b" \t\r\"'") for line in block.splitlines())
        for block in _INLINE.findall(text):
            names.update(part.strip(b" \t\"'") for part in block.split(b","))
    return frozenset(name.decode(errors="replace") for name in names if name and name != b"null")


def _lm_eval_folders() -> list[Path]:
    """lm-eval's own task folder, found without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    return [Path(root) / "tasks" for root in roots]
