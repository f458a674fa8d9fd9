"""The card of a row on the page: plain texts, from its runs' summaries and first manifest."""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from kdbench.harness.records import Manifest, ModelRef, StageCost
from kdbench.harness.store import read_record
from kdbench.reports.group import GroupedRow
from kdbench.reports.load import Run

Pairs = list[list[str]]


def card(grouped: GroupedRow) -> dict[str, Any]:
    """Facts, cost, configuration and provenance of one row, ready to be shown."""
    runs, row = grouped.runs, grouped.row
    first = runs[0].summary
    manifest = _manifest(runs[0])
    return {
        "facts": [
            ["division", f"{row.division} (regime {row.regime})"],
            ["student", _model(first.run.student)],
            ["teacher", _model(first.run.teacher)],
            ["training seeds", ", ".join(map(str, row.training_seeds)) or "none"],
            ["runs", ", ".join(row.runs)],
        ],
        "cost": _costs([run.summary.cost for run in runs]),
        "costTitle": f"Cost by stage, mean of {len(runs)} runs"
        if len(runs) > 1
        else "Cost by stage",
        "learned": [[name.replace("_", " "), f"{v:.4g}"] for name, v in first.learned.items()],
        "config": _config(manifest.config) if manifest else [],
        "provenance": _provenance(manifest) if manifest else [],
        "command": shlex.join(_without_places(manifest.argv)) if manifest else "",
        "signature": " ; ".join(dict.fromkeys(run.summary.signature for run in runs)),
    }


PLACES = ("--runs-dir", "--data-dir", "--out", "--device")
"""Flags that say where things lay on one machine; the rest of a command makes the run anywhere."""


def _without_places(argv: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in argv:
        if not skip and word not in PLACES and not word.startswith(tuple(f"{p}=" for p in PLACES)):
            kept.append(word)
        skip = word in PLACES
    return kept


def _manifest(run: Run) -> Manifest | None:
    path = run.folder / "manifest.json"
    return read_record(path, Manifest) if path.is_file() else None


def _model(model: ModelRef | None) -> str:
    if model is None:
        return "none"
    size = f"{model.parameters / 1e6:.3g}M parameters" if model.parameters else "no parameters"
    return f"{model.name}, {size}, fingerprint {model.fingerprint[:12]}"


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
    return [[name, list(_flat(values))] for name, values in parts.items() if values]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[list[str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield [f"{prefix}{key}", text]


def _provenance(manifest: Manifest) -> Pairs:
    commit = manifest.git_commit[:12] if manifest.git_commit else "no commit"
    changed = " with changes" if manifest.git_diff_sha256 else ""
    rows = [
        ["kdbench", f"{manifest.kdbench} ({commit}{changed})"],
        ["tokenizer", f"sha256 {manifest.tokenizer_sha256[:12]}"],
    ]
    for name, entry in manifest.data.items():
        parts = [f"{k} {str(v)[:12] if k == 'sha256' else v}" for k, v in entry.items()]
        rows.append([f"data: {name}", ", ".join(parts)])
    rows.append(["versions", ", ".join(f"{k} {v}" for k, v in manifest.versions.items())])
    hardware = {k: v for k, v in manifest.hardware.items() if k != "platform"}
    rows.append(["hardware", ", ".join(f"{k} {v}" for k, v in hardware.items())])
    if manifest.drift:
        rows.append(["accepted drift", "; ".join(manifest.drift)])
    return rows
