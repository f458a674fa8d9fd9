"""``kdbench ls``: what there is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdbench.harness.errors import InputError
from kdbench.harness.verbs import options
from kdbench.reports.text.document import Document, Section, Table

if TYPE_CHECKING:
    from kdbench.trainers.method import Card

Rows = list[dict[str, Any]]
CARD = ("title", "variant", "policy", "needs", "cost", "paper")
"""What a method's row says, in this order."""


def ls(
    what: Annotated[
        Literal["runs", "methods", "tasks", "suites", "studies", "settings"],
        typer.Argument(help="What to list."),
    ],
    method: Annotated[
        str | None,
        typer.Argument(help="Of settings: a method, whose own fields are listed too."),
    ] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="KEY", help="Of settings: all about one of them.")
    ] = None,
    suite: options.Suite = "mini",
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> None:
    """List runs (how far each is), methods, tasks, suites, studies or settings."""
    if what == "settings" or explain is not None:
        _settings(method, explain, suite, json_output=json_output)
        return
    if method is not None:
        raise InputError(
            f"kdbench ls {what} lists all of them; only settings are listed of a method"
        )
    if what == "runs":
        _runs(runs_dir, json_output=json_output)
        return
    listed = {"methods": methods, "tasks": tasks, "suites": suites, "studies": studies}
    rows = listed[what]()
    options.deliver(listing(rows), rows, json_output=json_output)


def _settings(method: str | None, explain: str | None, suite: str, *, json_output: bool) -> None:
    options.calm_libraries()
    from kdbench.harness.verbs import settings

    rows = settings.settings(method, suite)
    if explain is None:
        options.deliver(settings.settings_document(rows), rows, json_output=json_output)
    else:
        row = settings.explained(rows, explain)
        shown = settings.explained_document(row, suite)
        options.deliver(shown, row, json_output=json_output)


def _runs(runs_dir: Path, *, json_output: bool) -> None:
    from kdbench.harness.files.bundle.opening import opened
    from kdbench.harness.files.run_folder import runs_in
    from kdbench.reports.run.status import status_document, statuses

    found = statuses(runs_in(opened(runs_dir)))
    if found or json_output:
        rows = [each.plain() for each in found]
        options.deliver(status_document(found), rows, json_output=json_output)
    else:
        typer.echo(f"no runs in {runs_dir}; make one with: kdbench run --method dpkd")


def methods() -> Rows:
    """Methods with their cards; one that cannot be loaded says why."""
    from kdbench.harness.registry import find_method, method_names

    options.calm_libraries()
    rows: Rows = []
    for name in method_names():
        try:
            card = find_method(name).method.card
        except InputError as error:
            rows.append({"method": name, "title": f"cannot be loaded: {error}"})
            continue
        known = {key: getattr(card, key) for key in CARD if key != "needs"} | {"needs": needs(card)}
        rows.append({"method": name} | {key: known[key] for key in CARD})
    return rows


def needs(card: "Card") -> list[str]:
    """What a method cannot do without, in words."""
    kinds = ("teacher_logits", "teacher_samples", "student_samples", "plain_text", "same_tokenizer")
    return [kind.replace("_", " ") for kind in kinds if getattr(card, kind)]


def tasks() -> Rows:
    """Our tasks and what each is in its editions; others by where they come from."""
    from kdbench.tasks.catalogue import TASKS
    from kdbench.tasks.labels import LABEL_TASKS

    rows: Rows = [
        {"task": task.name, "mini": task.mini, "full": task.full, "hub": task.hub}
        for task in TASKS.values()
    ]
    for label in LABEL_TASKS.values():
        rows.append({"task": label.name, "full" if label.full else "mini": label.about})
    rows.append({"task": "own/test.jsonl, name=own/test.jsonl", "full": "rows of your own"})
    rows.append({"task": "any other", "full": "a task of lm-eval, by its name"})
    return [{"task": "", "mini": None, "full": None, "hub": None, **row} for row in rows]


def suites() -> Rows:
    """Suites and their pairs."""
    from kdbench.harness.files.shipped import SUITES
    from kdbench.harness.resolve import load_suite

    rows = []
    for name in SUITES.names():
        suite = load_suite(name)
        rows.append(
            {
                "suite": name,
                "regime": suite["regime"],
                "teacher": suite.get("pair", {}).get("teacher", "yours"),
                "student": suite.get("pair", {}).get("student", "yours"),
                "data": suite.get("data", {}).get("train", "yours"),
                "tasks": suite["tasks"]["names"],
                "edition": suite["tasks"]["edition"],
            }
        )
    return rows


def studies() -> Rows:
    """Studies, what each compares, and how many runs it has."""
    from kdbench.harness.files.shipped import STUDIES
    from kdbench.harness.study.definition import load_study

    rows = []
    for name in STUDIES.names():
        study = load_study(name)
        size = len(study.all_rows())
        rows.append(
            {
                "study": name,
                **{key: getattr(study, key) for key in ("title", "suite", "base")},
                "rows": size,
                "runs": size * len(study.seeds),
                "paper": study.paper,
            }
        )
    return rows


def listing(rows: Rows) -> Document:
    """A table with a column for each key that any row has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(keys, [[_text(row.get(key)) for key in keys] for row in rows])
    return Document("", [Section("", [table])])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)
