"""The card of a row on the page: plain texts, from its runs' summaries and first manifest."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.harness.files.placeless import command, placeless
from kdbench.harness.files.records import MethodFacts
from kdbench.harness.method_text import objective_of
from kdbench.reports.rows import GroupedRow
from kdbench.reports.run import parts
from kdbench.reports.text.document import Cell
from kdbench.reports.text.writer import plain

ARXIV = re.compile(r"(?<![\w./-])(\d{4}\.\d{4,5}|[a-z-]{2,12}/\d{7})(?![\w.]*\d)")
"""Ids of arXiv in a line that names papers: the only thing of a run that becomes a link."""


def card(grouped: GroupedRow) -> dict[str, Any]:
    """Facts, cost, configuration and provenance of one row, ready to be shown.

    What no mean can be taken of is the first run's; ``whose`` names it where there are more.
    """
    runs, row = grouped.runs, grouped.row
    first = runs[0].summary
    manifest = runs[0].folder.manifest.find()
    made = parts.provenance(manifest).rows if manifest else []
    prepared = runs[0].folder.prepare.find()
    seeds = [f" (training seed {run.summary.run.training_seed})" for run in runs]
    whose = seeds if len(runs) > 1 else [""]
    ids = [f"{run}{which}" for run, which in zip(row.runs, whose, strict=True)]
    return {
        "whose": whose[0],
        "facts": [
            ["division", f"{row.division} (regime {row.regime})"],
            *([["settings", row.tuning]] if row.tuning else []),
            [f"student{whose[0]}", _text(parts.student(first.run))],
            ["teacher", _text(parts.model(first.run.teacher))],
            ["training seeds", ", ".join(map(str, row.training_seeds)) or "none"],
            ["runs", ", ".join(ids)],
        ],
        "method": _method(prepared.method if prepared else None, first.run.method),
        "settings": _settings(grouped, manifest.config if manifest else {}),
        "cost": parts.costs([run.summary.cost for run in runs]),
        "costTitle": "Cost by stage" + (f", mean of {len(runs)} runs" if len(runs) > 1 else ""),
        "learned": parts.learned(first),
        "signature": " ; ".join(dict.fromkeys(run.summary.signature for run in runs)),
        # how the first run was made, without the folders of the machine
        "config": _config(manifest.config) if manifest else [],
        "provenance": [[_text(cell) for cell in row] for row in made],
        "command": shlex.join(command(manifest.argv)) if manifest else "",
    }


def _method(said: MethodFacts | None, name: str) -> dict[str, Any] | None:
    """What the method minimises and which papers it is of; None: the run does not say."""
    objective = (said.objective if said else "") or objective_of(said.name if said else name)
    if not objective and said is None:
        return None
    return {
        "title": said.title if said else name,
        "objective": objective,
        "paper": said.paper if said else "",
        "arxiv": list(dict.fromkeys(ARXIV.findall(said.paper))) if said else [],
    }


def _settings(grouped: GroupedRow, config: Mapping[str, Any]) -> str:
    """How the row's settings were found."""
    row = grouped.row
    if row.kind == "eval":
        return ""
    tuning = config.get("tuning")
    if isinstance(tuning, Mapping) and tuning.get("trials"):
        note = f" ({placeless(str(tuning['note']))})" if tuning.get("note") else ""
        found = f"tuned, {tuning['trials']} trials{note}"
    elif row.regime == "paper":
        found = "the paper's, as the suite has them"
    else:
        found = "the suite's defaults"
    return f"{found}; changed: {', '.join(row.changes)}" if row.changes else found


def _config(config: Mapping[str, Any]) -> list[list[Any]]:
    """Sections of the configuration, each with dotted keys; what is no section comes first."""
    nested = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in config.items() if key not in nested}
    sections = {"run": plain} | nested
    return [[placeless(name), list(_flat(found))] for name, found in sections.items() if found]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield [placeless(f"{prefix}{key}"), placeless(text)]


def _text(cell: Cell) -> str:
    """A cell of a document as plain text, without the folders of the machine."""
    return placeless(plain(cell))
