"""The card of a row on the page: plain texts, from its runs' summaries and first manifest."""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from kdbench.harness.files.records import StageCost
from kdbench.reports.card import model, provenance, read_manifest
from kdbench.reports.group import GroupedRow
from kdbench.reports.model_card import command
from kdbench.reports.text.document import Cell, Section, Table, plain

Pairs = list[list[str]]


def card(grouped: GroupedRow) -> dict[str, Any]:
    """Facts, cost, configuration and provenance of one row, ready to be shown.

    What no mean can be taken of is the first run's; ``whose`` names it where there are more.
    """
    runs, row = grouped.runs, grouped.row
    first = runs[0].summary
    manifest = read_manifest(runs[0].folder)
    seeds = [f" (training seed {run.summary.run.training_seed})" for run in runs]
    whose = seeds if len(runs) > 1 else [""]
    return {
        "whose": whose[0],
        "facts": [
            ["division", f"{row.division} (regime {row.regime})"],
            [f"student{whose[0]}", _text(model(first.run.student))],
            ["teacher", _text(model(first.run.teacher))],
            ["training seeds", ", ".join(map(str, row.training_seeds)) or "none"],
            [
                "runs",
                ", ".join(f"{run}{which}" for run, which in zip(row.runs, whose, strict=True)),
            ],
        ],
        "cost": _costs([run.summary.cost for run in runs]),
        "costTitle": f"Cost by stage, mean of {len(runs)} runs"
        if len(runs) > 1
        else "Cost by stage",
        "learned": [[name.replace("_", " "), f"{v:.4g}"] for name, v in first.learned.items()],
        "config": _config(manifest.config) if manifest else [],
        "provenance": _rows(provenance(manifest)) if manifest else [],
        "command": shlex.join(command(manifest.argv)) if manifest else "",
        "signature": " ; ".join(dict.fromkeys(run.summary.signature for run in runs)),
    }


def _costs(costs: list[dict[str, StageCost]]) -> Pairs:
    """One line a stage: means over the runs that have it."""
    found = []
    for stage in dict.fromkeys(name for cost in costs for name in cost):
        those = [cost[stage] for cost in costs if stage in cost]
        names = dict.fromkeys(name for cost in those for name in cost.tokens)
        tokens = [
            f"{name.replace('_', ' ')} {sum(c.tokens.get(name, 0) for c in those) / len(those):,.0f}"
            for name in names
        ]
        peak = max(cost.peak_mb for cost in those)
        seconds = sum(cost.wall_s for cost in those) / len(those)
        found.append([stage, _time(seconds), ", ".join(tokens), f"{peak:,.0f} MB" if peak else ""])
    return found


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _config(config: Mapping[str, Any]) -> list[list[Any]]:
    """Sections of the configuration, each with dotted keys; what is no section comes first."""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    parts: dict[str, Mapping[str, Any]] = {"run": plain}
    parts |= {key: value for key, value in config.items() if isinstance(value, Mapping)}
    return [[_placeless(name), list(_flat(values))] for name, values in parts.items() if values]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[list[str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield [_placeless(f"{prefix}{key}"), _placeless(text)]


def _rows(sections: Iterable[Section]) -> Pairs:
    """The rows of all tables in sections of a document."""
    tables = [part for section in sections for part in section.parts if isinstance(part, Table)]
    return [[_text(cell) for cell in row] for table in tables for row in table.rows]


def _text(cell: Cell) -> str:
    """A cell of a document as plain text, without the folders of the machine."""
    return _placeless(plain(cell))


def _placeless(text: str) -> str:
    """Text without the folders of the machine: what a command is shown without."""
    return " ".join(command([text]))
