"""``kdbench ls settings``: every setting with its value, and what it is, as its section says."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from kdbench.harness.errors import unknown
from kdbench.reports.text.document import Code, Document, Notes, Section, Table

Facts = dict[str, Any]
HIDDEN = (
    "method.name",
    "method.source",
    "method.fingerprint",
    "method.options",
    "method.departures",
)
"""What the command line says elsewhere."""

OTHER_TRAININGS = ("init_sft", "teacher_sft")


def settings(method: str | None, suite: str) -> list[Facts]:
    """All settings of a run: key, value under the suite, default, kind and description.

    Args:
        method: whose own fields are listed too, and whose values in the suite; None: none's.
        suite: name or YAML file.
    """
    from kdbench.harness.config import RunConfig
    from kdbench.harness.registry import find_method
    from kdbench.harness.resolve import resolve

    config = resolve(suite=suite, method=method or "sft")
    tree = config.model_dump(mode="json")
    rows = [row for row in fields(RunConfig) if row["key"] not in (*HIDDEN, "suite", "regime")]
    if method is not None:
        own = find_method(method)
        rows += [{**row, "key": f"method.{row['key']}"} for row in fields(own.method.Config)]
        tree["method"] = config.method.options
    return [{**row, "value": _looked_up(tree, row["key"])} for row in rows]


def fields(model: type[Any], prefix: str = "") -> Iterator[Facts]:
    """The fields of a configuration class, those of sections in it by dotted key."""
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    for name, info in model.model_fields.items():
        kinds = [info.annotation, *get_args(info.annotation)]
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if inner:
            yield from fields(inner[0], f"{prefix}{name}.")
            continue
        default = None if info.default is PydanticUndefined else info.default
        yield {
            "key": f"{prefix}{name}",
            "default": list(default) if isinstance(default, tuple) else default,
            "required": info.is_required(),
            "kind": kind_of(info.annotation),
            "about": info.description or "",
        }


def kind_of(annotation: Any) -> str:
    """A type in a few words: its choices, or its name."""
    if isinstance(annotation, type):
        return {
            "str": "text",
            "int": "whole number",
            "float": "number",
            "bool": "true or false",
        }.get(annotation.__name__, annotation.__name__)
    parts = get_args(annotation)
    if parts and all(isinstance(part, str | int) for part in parts):
        return ", ".join(map(str, parts))
    named = [kind_of(part) for part in parts if part is not type(None) and part is not Ellipsis]
    if not named:
        return str(annotation)
    said = " or ".join(dict.fromkeys(name for name in named if "FieldInfo" not in name))
    if str(annotation).startswith(("tuple", "list")):
        return f"list of {said}"
    return f"{said} or none" if type(None) in parts else said


def _looked_up(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def settings_document(rows: list[Facts]) -> Document:
    """A line a setting, a method's own first; of trainings before the student's what they have apart."""
    of_student = {row["key"]: row["value"] for row in rows}

    def repeats(row: Facts) -> bool:
        section, _, name = row["key"].partition(".")
        same = row["value"] in (None, of_student.get(f"train.{name}"))
        return section in OTHER_TRAININGS and same

    kept = [row for row in rows if not repeats(row)]
    kept.sort(key=lambda row: not row["key"].startswith("method."))
    table = Table(
        ["setting", "value", "what it is"],
        [[row["key"], _text(row["value"]), row["about"] or row["kind"]] for row in kept],
    )
    notes = [
        "init_sft.KEY and teacher_sft.KEY: every train.KEY, of the init and the teacher; those that differ "
        "are listed",
        "change one with --set KEY=VALUE; more about it: kdbench ls settings --explain KEY",
    ]
    return Document("", [Section("", [table, Notes(notes)])])


def explained(rows: list[Facts], key: str) -> Facts:
    """One setting, by its key or the end of it.

    Raises:
        InputError: none, or several.
    """
    fitting = [row for row in rows if row["key"] == key]
    fitting = fitting or [row for row in rows if row["key"].endswith(f".{key}")]
    # a training's fields are those of teacher_sft and init_sft too; that of the student is meant
    own = [row for row in fitting if row["key"].partition(".")[0] not in OTHER_TRAININGS]
    if len(own or fitting) != 1:
        raise unknown("setting", key, [row["key"] for row in rows])
    return (own or fitting)[0]


def explained_document(row: Facts, suite: str) -> Document:
    """All that is known of a setting, and how it is set."""
    from kdbench.harness.config import NOT_HASHED

    name = row["key"].rpartition(".")[2]
    facts: list[list[Any]] = [
        ["setting", Code(row["key"])],
        ["what it is", row["about"] or "its name says it"],
        ["takes", row["kind"]],
        ["default", "none: a suite must say it" if row["required"] else _text(row["default"])],
        [f"in suite {suite}", _text(row["value"])],
        ["set it by", Code(f"--set {row['key']}={_text(row['value']) or 'VALUE'}")],
    ]
    if name in NOT_HASHED:
        facts.append(["run id", "not part of it: it leaves the trained student as it is"])
    return Document("", [Section("", [Table([], facts)])])


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
