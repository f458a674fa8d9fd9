"""A user's rows as a task: read by the same rules as training data, each question once."""

from kdbench.harness.config import DataConfig, RunConfig, TasksConfig
from kdbench.harness.data.examples import Example
from kdbench.harness.data.understood import Reading, Understood, understand
from kdbench.harness.errors import InputError


def task_rows(place: str, config: RunConfig) -> Understood:
    """The rows of a task that is a file, a folder or a data set of the hub; of a conversation the last
    question.

    Raises:
        InputError: nothing there, or no rows that can be asked and compared.
    """
    return read_task(place, config.tasks, config.data)


def read_task(place: str, tasks: TasksConfig, data: DataConfig) -> Understood:
    """The same before there is a whole configuration.

    Raises:
        InputError: as of `task_rows`.
    """
    columns, fallback = tasks.columns or data.columns, not tasks.columns
    found = understand(place, "test", Reading(columns=columns, fallback=fallback))
    if found is None:
        raise InputError(f"{place} has no split for test; name one, as in {place}::SPLIT")
    if found.columns.kind == "plain text":
        raise InputError(
            f"{place} holds plain text, which asks nothing; a task needs questions and reference answers"
        )
    return found


def asked_rows(place: str, config: RunConfig) -> list[Example]:
    """Those of `task_rows` that are asked: all, or the first that the limit allows."""
    return task_rows(place, config).examples[: config.tasks.limit]
