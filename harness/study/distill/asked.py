"""What ``--set`` of ``distill`` changes in the suite that is shown, written and trained by."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbench.harness.config import DataConfig, PairConfig, RunConfig, TasksConfig
from kdbench.harness.files.store import validated
from kdbench.harness.own.facts import Written
from kdbench.harness.own.settings import Choice, Facts
from kdbench.harness.resolve import BUDGET, Tree, changes_of, merge

ASKED = "asked for"


def with_settings(suite: Tree, settings: Sequence[str], methods: Sequence[str]) -> Tree:
    """A suite that says by itself what runs get by it and these settings.

    As in a run, those of ``train`` and ``method`` are of the methods' own trainings: the shared init keeps
    what the suite says.

    Args:
        suite: what was chosen.
        settings: of ``--set``.
        methods: that are trained.

    Raises:
        InputError: an unknown key.
    """
    above = changes_of(settings, {})
    own = {name: above.pop(name) for name in ("train", "method") if name in above}
    whole = merge(suite, {name: each for name, each in above.items() if each is not None})
    return merge(whole, {"methods": dict.fromkeys(methods, own)}) if own else whole


def training_of(suite: Tree, settings: Sequence[str]) -> Tree:
    """The training of methods by suite and settings, but for what a method has of its own.

    Args:
        suite: of `with_settings`.
        settings: of ``--set``.

    Raises:
        InputError: a value that does not fit.
    """
    training = merge(suite["train"], changes_of(settings, {}).get("train") or {})
    whole = {name: section for name, section in suite.items() if name != "methods"}
    init = merge(training, suite.get("init_sft") or {})
    whole |= {"train": training, "init_sft": init, "method": {"name": "sft"}}
    validated(RunConfig, whole, "--set", "configuration")
    return training


def asked_data(train: str, settings: Sequence[str]) -> DataConfig:
    """What settings say of the rows to learn from.

    Args:
        train: where they are.
        settings: of ``--set``.

    Raises:
        InputError: an unknown key, or a value that does not fit.
    """
    asked = changes_of(settings, {}).get("data") or {}
    return validated(DataConfig, {"train": train, **asked}, "--set data", "configuration")


def asked_of_tests(settings: Sequence[str]) -> TasksConfig:
    """What settings say of the test rows.

    Raises:
        InputError: an unknown key, or a value that does not fit.
    """
    asked = changes_of(settings, {}).get("tasks") or {}
    return validated(TasksConfig, {"names": (), **asked}, "--set tasks", "configuration")


def asked_form(data: DataConfig, settings: Sequence[str]) -> Written:
    """What settings say of how prompts are written.

    Raises:
        InputError: an unknown key, or a value that does not fit.
    """
    pair = changes_of(settings, {}).get("pair") or {}
    validated(PairConfig, {"teacher": "", "student": "", **pair}, "--set pair", "configuration")
    return Written(data, pair.get("template"), asked_of_tests(settings).template)


def with_columns(suite: Tree, columns: Mapping[str, str] | None) -> Tree:
    """A suite whose rows have these columns; None: those of a split that was written here."""
    data, tasks = ({**suite[name]} for name in ("data", "tasks"))
    data.pop("columns", None)
    if columns:
        data["columns"] = dict(columns)
    if columns is None:
        tasks.pop("columns", None)
    return {**suite, "data": data, "tasks": tasks}


def without_columns(settings: Sequence[str], *, written: bool) -> tuple[str, ...]:
    """The settings over a suite of `with_columns`, which says itself what columns rows have.

    Args:
        settings: of ``--set``.
        written: whether the split was written here.
    """
    gone = ("data.columns", "tasks.columns")[: 2 if written else 1]
    keys = [(text, text.partition("=")[0].strip()) for text in settings]
    return tuple(text for text, key in keys if ".".join(key.split(".")[:2]) not in gone)


def with_asked(choices: Sequence[Choice], settings: Sequence[str]) -> list[Choice]:
    """The choices with what was asked for in their places, the rest of it behind."""
    asked = dict(_leaves(changes_of(settings, {})))
    budget = {f"train.{name}" for name in BUDGET}
    gone = budget if any(asked.get(key) is not None for key in budget) else set()
    kept = [
        Choice(each.key, asked.pop(each.key), ASKED) if each.key in asked else each
        for each in choices
        if each.key in asked or each.key not in gone
    ]
    return [*kept, *(Choice(key, value, ASKED) for key, value in asked.items())]


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def trained_tokens(training: Tree, facts: Facts) -> int:
    """About how many response tokens a training sees, however its budget is said."""
    answer = facts.answers.mean
    if (steps := training.get("steps")) is not None:
        return max(1, round(steps * training["batch_size"] * answer))
    if (epochs := training.get("epochs")) is not None:
        return max(1, round(epochs * facts.rows * answer))
    return int(training["response_tokens"])
