"""``kdbench ls``: what there is."""

import json
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.harness.verbs import options
from kdbench.reports.text.document import Document, Section, Table

if TYPE_CHECKING:
    from kdbench.trainers.method import Card

Rows = list[dict[str, Any]]


class What(StrEnum):
    """What can be listed."""

    runs = "runs"
    methods = "methods"
    tasks = "tasks"
    suites = "suites"
    studies = "studies"


def ls(
    what: Annotated[What, typer.Argument(help="What to list.")],
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> None:
    """List runs, methods, tasks, suites or studies."""
    listings: dict[What, Callable[[], Rows]] = {
        What.runs: lambda: runs(runs_dir),
        What.methods: methods,
        What.tasks: tasks,
        What.suites: suites,
        What.studies: studies,
    }
    rows = listings[what]()
    if json_output:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        from kdbench.reports.text.terminal import show

        show(listing(rows))
    else:
        typer.echo(f"no {what} in {runs_dir}; make one with: kdbench run --method dpkd")


def runs(runs_dir: Path) -> Rows:
    """Run folders, oldest first: method, student, suite, seed and how far each is."""
    found = []
    for folder in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []:
        if (folder / "config.json").is_file():
            found.append(_run_row(folder))
    return sorted(found, key=lambda row: row["begun"])


def _run_row(folder: Path) -> dict[str, Any]:
    from kdbench.harness.errors import InputError
    from kdbench.harness.files.locks import lock_holder
    from kdbench.harness.files.store import read_json

    row: dict[str, Any] = {"run": folder.name}
    try:
        config = read_json(folder / "config.json")
        row |= {
            "method": config["method"]["name"],
            "student": config["pair"]["student"],
            "suite": config["suite"],
            "seed": config["train"]["seed"],
        }
    except (InputError, KeyError, TypeError):
        row |= {"method": None, "student": None, "suite": None, "seed": None}
    if folder.name.startswith("eval-"):  # an evaluation of a model that no run of ours made
        row["method"] = folder.name.removeprefix("eval-").rpartition("-")[0]
        row["seed"] = None
    done = [path.stem for path in folder.glob("*.done")]
    holder = lock_holder(folder)
    if holder is not None:
        row["state"] = f"running (process {holder.pid} on {holder.host})"
    elif (folder / "summary.json").is_file():
        row["state"] = "done"
    else:
        row["state"] = f"stopped after {done[-1]}" if done else "begun"
    keys = sorted(path.name for path in (folder / "eval").glob("*@*") if path.is_dir())
    row["evaluations"] = [key.partition("@")[0] for key in keys]
    row["begun"] = int((folder / "config.json").stat().st_mtime)
    return row


def methods() -> Rows:
    """Methods with their cards; one that cannot be loaded says why."""
    from kdbench.harness.errors import InputError
    from kdbench.harness.registry import find_method, method_names

    options.calm_libraries()
    rows: Rows = []
    for name in method_names():
        try:
            card = find_method(name).method.card
        except InputError as error:
            rows.append({"method": name, "title": f"cannot be loaded: {error}"})
            continue
        rows.append(
            {
                "method": name,
                "title": card.title,
                "variant": card.variant,
                "policy": card.policy,
                "needs": needs(card),
                "cost": card.cost,
                "paper": card.paper,
            }
        )
    return rows


def needs(card: "Card") -> list[str]:
    """What a method cannot do without, in words."""
    wanted = {
        "teacher logits": card.teacher_logits,
        "teacher samples": card.teacher_samples,
        "student samples": card.student_samples,
        "plain text": card.plain_text,
        "same tokenizer": card.same_tokenizer,
    }
    return [name for name, is_needed in wanted.items() if is_needed]


def tasks() -> Rows:
    """Our tasks and what each is in its editions."""
    from kdbench.tasks.catalogue import TASKS

    return [
        {"task": spec.name, "mini": spec.mini, "full": spec.full, "hub": spec.hub}
        for spec in TASKS.values()
    ] + [{"task": "any other", "mini": None, "full": "a task of lm-eval, by its name", "hub": None}]


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
                "teacher": suite["pair"]["teacher"],
                "student": suite["pair"]["student"],
                "data": suite["data"]["train"],
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
        labels = [row.label for row in study.all_rows()]
        rows.append(
            {
                "study": name,
                "title": study.title,
                "suite": study.suite,
                "base": study.base,
                "rows": len(labels),
                "runs": len(labels) * len(study.seeds),
                "paper": study.paper,
            }
        )
    return rows


def listing(rows: Rows) -> Document:
    """A table with a column for each key that any row has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(keys, [[_text(key, row.get(key)) for key in keys] for row in rows])
    return Document("", [Section("", [table])])


def _text(key: str, value: Any) -> str:
    if key == "begun":
        return datetime.fromtimestamp(value).strftime("%Y-%m-%d %H:%M")
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)
