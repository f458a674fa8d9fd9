"""Runs and evaluations: ``kdbench.run``, ``kdbench.evaluate`` and what ``run``, ``train``, ``eval`` call."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from kdbench.harness.api.calls import (
    Place,
    Settings,
    assignments,
    calm_libraries,
    command_line,
    make_request,
    names,
)
from kdbench.harness.api.results import Made

if TYPE_CHECKING:
    from kdbench.harness.config import Request, RunConfig
    from kdbench.harness.runner.commands import Ran


def run(
    method: str,
    *,
    suite: str = "mini",
    teacher: str | Path | None = None,
    student: str | Path | None = None,
    seed: int | None = None,
    tasks: str | Sequence[str] | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
    **place: Unpack[Place],
) -> Made:
    """Trains a student by a method and evaluates it beside its references, as ``kdbench run``.

    The same call continues a run that was interrupted, and repeats nothing of a finished one.

    Args:
        method: a name (``kdbench ls methods``) or a ``.py`` file.
        suite: the protocol: a name (``kdbench ls suites``) or a YAML file.
        teacher: hub id, folder or .gguf file; None: the suite's.
        student: the same, ``prune:N`` (N of the teacher's layers) or a config.json to initialise.
        seed: training seed; None: the suite's.
        tasks: names, or files of rows (``own/test.jsonl``, ``name=own/test.jsonl``).
        limit: the first so many prompts of each task.
        settings: any other setting: ``{"train.lr": 1e-4}``.
        place: see `kdbench.harness.api.calls.Place`.

    Raises:
        InputError: an unknown name, a value that does not fit, a model or data that cannot be used.
    """
    calm_libraries()
    from kdbench.harness.resolve import resolve

    asked, changed = names(tasks), assignments(settings)
    pair = {"teacher": _text(teacher), "student": _text(student)}
    flags: dict[str, Any] = {f"pair.{name}": value for name, value in pair.items()}
    flags |= {"train.seed": seed, "tasks.names": asked, "tasks.limit": limit}
    where = place.get("data_dir")
    config = resolve(
        suite=suite,
        method=method,
        assignments=changed,
        flags=flags,
        data_dir=None if where is None else Path(where),
    )
    said = {
        "--method": method,
        "--suite": suite,
        "--seed": seed,
        "--tasks": asked,
        "--limit": limit,
    }
    said |= {f"--{name}": value for name, value in pair.items()}
    argv = command_line("run", said, changed)
    return run_request(make_request(config, argv=argv, **place))


def evaluate(
    model: str | Path,
    *,
    suite: str | None = None,
    tasks: str | Sequence[str] | None = None,
    limit: int | None = None,
    template: str | None = None,
    settings: Settings | None = None,
    **place: Unpack[Place],
) -> Made:
    """Asks a model the tasks of a suite, adding to what was asked before, as ``kdbench eval``.

    Args:
        model: a run folder (its student is asked more), hub id, folder, .gguf file, or ``teacher``,
            ``init``, ``truth`` of the suite.
        suite: the protocol; None: mini; of a run folder its own holds.
        tasks: names, or files of rows.
        limit: the first so many prompts of each task.
        template: alpaca, chat or none; None: the suite's.
        settings: any other setting of tasks and decoding: ``{"generate.temperature": 0}``.
        place: see `kdbench.harness.api.calls.Place`.

    Raises:
        InputError: an unknown name, a value that does not fit, a model or data that cannot be used.
    """
    calm_libraries()
    from kdbench.harness.files.run_folder import RunFolder
    from kdbench.harness.resolve import overlay

    asked, changed = names(tasks), assignments(settings)
    flags = {"tasks.names": asked, "tasks.limit": limit, "tasks.template": template}
    said = {"--tasks": asked, "--limit": limit, "--template": template}
    folder = Path(model)
    if RunFolder(folder).begun() and not _is_model(folder):
        config = overlay(stored_config(folder), changed, flags, sections=("tasks", "generate"))
        place["runs_dir"] = folder.resolve().parent
        argv = command_line("eval", said, changed)
        return eval_request(make_request(config, argv=argv, run=folder, **place))
    config = asked_config(str(model), suite, changed, flags)
    argv = command_line("eval", {"--model": model, "--suite": suite, **said}, changed)
    return eval_request(make_request(config, argv=argv, model=str(model), **place))


def _is_model(folder: Path) -> bool:
    """Whether the ``config.json`` of a folder is a model's, not a run's."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config


def asked_config(
    model: str, suite: str | None, assignments: Sequence[str], flags: Mapping[str, Any]
) -> "RunConfig":
    """How a model is evaluated by a suite (None: mini), which uses no method's settings.

    Raises:
        InputError: also for a user's model and rows where neither suite nor template is named.
    """
    from kdbench.harness.own.notes import refuse_guessed
    from kdbench.harness.resolve import resolve

    config = resolve(suite=suite or "mini", method="sft", assignments=assignments, flags=flags)
    if suite is None:
        refuse_guessed(config, model)
    return config


def stored_config(folder: Path) -> "RunConfig":
    """The configuration that a run was made with, without a folder of task files: they run code.

    Raises:
        InputError: no run folder, or a damaged one.
    """
    return without_task_files(whole_config(folder))[0]


def whole_config(folder: Path) -> "RunConfig":
    """The configuration that a run was made with.

    Raises:
        InputError: no run folder, or a damaged one.
    """
    from kdbench.harness.config import RunConfig
    from kdbench.harness.errors import InputError
    from kdbench.harness.files.run_folder import RunFolder
    from kdbench.harness.files.store import Document

    config = RunFolder(folder).config
    if not config.exists():
        raise InputError(
            f"{folder} is no run folder (it has no {config.path.name}); see: kdbench ls runs"
        )
    return Document(config.path, RunConfig, config.remedy).read()


def without_task_files(config: "RunConfig") -> tuple["RunConfig", str | None]:
    """A stored configuration that names no folder of task files (they run code), and what it named."""
    tasks = config.tasks.model_copy(update={"include_path": None})
    return config.model_copy(update={"tasks": tasks}), config.tasks.include_path


def run_request(request: "Request") -> Made:
    """A resolved run, trained and evaluated."""
    from kdbench.harness.runner.commands import run_command

    return _made(run_command(request))


def train_request(request: "Request") -> Made:
    """A resolved run, trained."""
    from kdbench.harness.runner.commands import train_command

    return _made(train_command(request))


def eval_request(request: "Request") -> Made:
    """A run's student, or the request's model, asked."""
    from kdbench.harness.runner.commands import eval_command

    return _made(eval_command(request))


def _made(ran: "Ran") -> Made:
    references = tuple(run.path for run in ran.references)
    return Made(ran.run.path, references, tuple(ran.tasks), ran.is_main)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
