"""Tasks of lm-eval's and of third parties: found, loaded, told apart."""

import hashlib
import itertools
import json
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import lm_eval.api.task
from lm_eval.api.group import Group
from lm_eval.api.metrics import mean
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import MetricCard, ScoreRow
from kdbench.harness.lm.version import files_sha256
from kdbench.harness.metrics import METRICS


def generates(name: str, include_paths: Iterable[Path | str] = ()) -> bool:
    """Whether a task is answered in words, all of its parts.

    Raises:
        InputError: it cannot be loaded.
    """
    with undisturbed():
        kinds = {task.OUTPUT_TYPE for task in leaves(name, include_paths)}
    return kinds == {"generate_until"}


def stock_identity(
    name: str, *, include_paths: Iterable[Path | str] = (), limit: int | None = None
) -> str:
    """sha256 of what a stock task asks: its configuration and documents, of all its subtasks, and its files
    where a folder brings it, for functions are in its configuration by name only.

    Raises:
        InputError: the task cannot be loaded.
    """
    include_paths = list(include_paths)
    # nothing for lm-eval's own
    digest = hashlib.sha256(files_sha256(name, include_paths).encode())
    with undisturbed():
        for task in leaves(name, include_paths):
            # functions by their names: their addresses change with the process
            for row in (task.dump_config(), *itertools.islice(task.eval_docs, limit)):
                text = json.dumps(row, sort_keys=True, default=_name_or_text)
                digest.update(text.encode())
    return digest.hexdigest()


def _name_or_text(value: Any) -> str:
    return str(value.__qualname__) if callable(value) else str(value)


def metric_cards(results: dict[str, Any], scores: Sequence[ScoreRow]) -> dict[str, dict[str, Any]]:
    """How metrics that lm-eval brings are shown; their direction is what the task says.

    lm-eval says nothing of a metric's range. One whose documents all lie between 0 and 1 is a share; any
    other has no bounds.

    Args:
        results: lm-eval's.
        scores: what each document has.
    """
    cards = {}
    for directions in (results.get("higher_is_better") or {}).values():
        for name, higher in directions.items():
            if name not in METRICS and higher is not None:
                values = [v for row in scores for v in row.metrics.get(name, ())]
                share = bool(values) and all(0 <= value <= 1 for value in values)
                ends = {"low": 0.0, "high": 1.0} if share else {}
                better: Literal[-1, 1] = 1 if higher else -1
                card = MetricCard(label=name, better=better, digits=3, headline=True, **ends)
                cards[name] = card.model_dump(mode="json")
    return cards


def results_of(
    name: str,
    model: TemplateLM,
    include_paths: Iterable[Path | str],
    limit: int | None,
    *,
    chat: bool = False,
) -> dict[str, Any]:
    """lm-eval's results of a task; the global generators of a training in progress are left alone.

    ``averaged`` is added: by task the metrics whose value is the mean of what its documents have. Others
    make something else of them, so that what a document has is not in the metric's own unit (perplexity).

    Raises:
        InputError: the task cannot be loaded.
    """
    manager = manager_of(name, include_paths)
    objects = load(manager, name)
    found = simple_evaluate(
        model,
        tasks=objects,
        limit=limit,
        task_manager=manager,
        apply_chat_template=chat,
        bootstrap_iters=0,
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=None,
    )
    averaged = {
        str(task.config.task): [
            metric for metric, made in task.aggregation().items() if made is mean
        ]
        for task in _parts(objects)
    }
    return {**found, "averaged": averaged}


def leaves(name: str, include_paths: Iterable[Path | str]) -> list[Any]:
    """The tasks that a name stands for, groups taken apart."""
    return _parts(load(manager_of(name, include_paths), name))


def _parts(objects: Iterable[Any]) -> list[Any]:
    return [
        task
        for each in objects
        for task in (each.get_all_tasks() if isinstance(each, Group) else [each])
    ]


def manager_of(name: str, include_paths: Iterable[Path | str]) -> TaskManager:
    """A manager that knows a name; lm-eval's own files are read only if they are needed."""
    paths = tuple(str(path) for path in include_paths)
    if paths:
        own = _read_tasks(paths, False)
        if name in own.all_subtasks:
            return own
    return _read_tasks(paths, True)


@cache
def _read_tasks(include_paths: tuple[str, ...], defaults: bool) -> TaskManager:
    """Once a process: with ``defaults``, some 15,000 files are parsed, which takes seconds."""
    return TaskManager(include_path=list(include_paths), include_defaults=defaults)


def load(manager: TaskManager, name: str) -> list[Any]:
    """A task's objects; lm-eval's own errors, of many kinds, become one sentence."""
    if name not in manager.task_index:  # lm-eval would take it for the path of a file, and run that
        raise InputError(f"no lm-eval task is called {name!r}; see kdbench ls tasks")
    try:
        found = manager.load([name])
    except Exception as error:  # a task file may raise anything: it runs code and loads data
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise InputError(
            f"cannot load lm-eval task {name!r} ({reason}); check its file and that its data is "
            "on this machine or the network can be reached"
        ) from error
    return [*(found.get("groups") or {}).values()] or [*found["tasks"].values()]


@contextmanager
def undisturbed() -> Iterator[None]:
    """lm-eval without log lines below errors, without progress bars, and without side effects.

    It draws from Python's global generator whenever a task is asked for its name; an evaluation in
    the middle of a training must not change what comes after it.
    """
    state = random.getstate()
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval.api.task.tqdm
    commit = lm_eval.evaluator.get_git_commit_hash
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = _no_bar
    # it asks git about whatever folder the command was started in, and git complains on the terminal
    lm_eval.evaluator.get_git_commit_hash = _no_commit
    try:
        yield
    finally:
        lm_eval.evaluator.get_git_commit_hash = commit
        random.setstate(state)
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar


def _no_commit() -> None:
    return None


def _no_bar(items: Any, **_: Any) -> Any:
    return items
