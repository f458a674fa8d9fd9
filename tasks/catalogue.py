"""The task registry: which tasks there are, in which editions, and their rows.

A task has a name (``dolly``) and an edition: ``mini-2`` (the generated world), ``mini-test`` (the
same world at test size) or ``full`` (real data); a limit makes an edition of its own, ``full:40``.
Inside lm-eval the names are ``kdbench_<task>_<mini|full>``, since its names are global and a later
one silently wins.
"""

from dataclasses import dataclass
from pathlib import Path

from kdbench.harness.data.examples import Example, parse_examples
from kdbench.harness.data.sources import load_split
from kdbench.harness.errors import InputError, unknown

YAML_FOLDER = Path(__file__).with_name("yaml")
"""lm-eval's ``include_path`` for our tasks."""

EDITIONS = ("mini-2", "mini-test", "full")


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One text task.

    Attributes:
        name: ours; the papers' folders are self-inst, sinst, uinst.
        mini: what it is in the generated world.
        full: the real set.
        hub: where the real set is published.
    """

    name: str
    mini: str
    full: str
    hub: str


TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "dolly",
            "held-out instructions of the training kind",
            "DollyEval, 500 instructions",
            "MiniLLM/dolly",
        ),
        TaskSpec(
            "selfinst",
            "unseen compositions of known instructions",
            "SelfInst, 242 user-oriented instructions",
            "MiniLLM/self-inst",
        ),
        TaskSpec(
            "vicuna",
            "instructions with long answers",
            "VicunaEval, 80 questions",
            "MiniLLM/Vicuna",
        ),
        TaskSpec(
            "sni",
            "a definition and an input, several references",
            "Super-NaturalInstructions, references of 11 tokens or more",
            "MiniLLM/sinst",
        ),
        TaskSpec(
            "unni",
            "paraphrased instructions",
            "UnnaturalInstructions, references of 11 tokens or more, first 10,000",
            "MiniLLM/uinst",
        ),
    )
}


def split_edition(edition: str) -> tuple[str, int | None]:
    """``full:40`` as (``full``, 40); without a limit, None.

    Raises:
        InputError: unknown edition, or a limit that is no positive number.
    """
    base, colon, limit = edition.partition(":")
    if base not in EDITIONS:
        raise unknown("edition", base, EDITIONS)
    if colon and (not limit.isdecimal() or int(limit) < 1):
        raise InputError(f"edition {edition!r} has no positive limit; write for example {base}:40")
    return base, int(limit) if colon else None


def join_edition(edition: str, limit: int | None) -> str:
    """The edition's full name, shown in every table: ``full`` and 40 make ``full:40``."""
    return edition if limit is None else f"{edition}:{limit}"


def task_examples(
    task: str,
    edition: str,
    *,
    limit: int | None = None,
    data_dir: Path | str | None = None,
) -> list[Example]:
    """Test rows of a task, in their fixed order.

    Args:
        task: a key of `TASKS`.
        edition: ``mini-2``, ``mini-test``, ``full``, each also with ``:limit``.
        limit: the first so many rows only, before any protocol drops some.
        data_dir: where real data is, see `kdbench.harness.data.sources`.

    Raises:
        InputError: unknown names, data not found, or a limit below 1.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    base, own_limit = split_edition(edition)
    limit = own_limit if limit is None else limit
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} leaves no prompts; give 1 or more")
    rows = load_split(task, "test", data_dir) if base == "full" else _generated(task, base)
    return rows[:limit]


def _generated(task: str, size: str) -> list[Example]:
    # imported here: generating the world costs time that real data should not pay
    from kdbench.tasks import mini

    return parse_examples(mini.rows(task, size=size), where=f"{task}[{size}]")
