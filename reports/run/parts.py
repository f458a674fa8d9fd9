"""What documents say of one run: who made it, how well it does, what it cost, how to make it again."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdbench.harness.files.records import (
    Estimate,
    Manifest,
    Missing,
    ModelRef,
    RunCard,
    StageCost,
    Summary,
)
from kdbench.harness.metrics import info, rank
from kdbench.reports.text.document import Block, Cell, Code, Paragraph, Part, Table
from kdbench.reports.text.style import interval, number


def title(summary: Summary) -> str:
    """Method, variant and suite."""
    run = summary.run
    return f"{run.method} {run.variant}".strip() + f" on {run.suite}"


def origin(summary: Summary) -> Table:
    """Which run, from which models."""
    run = summary.run
    rows: list[list[Cell]] = [
        ["run", (Code(run.id), f" ({run.kind}, regime {run.regime})")],
        ["teacher", model(run.teacher)],
        ["student", student(run)],
        ["training seed", "none" if run.training_seed is None else str(run.training_seed)],
    ]
    return Table([], rows)


def model_name(name: str) -> str:
    """A model's name without the folders of the machine it lay on; hub ids stay as they are."""
    path = Path(name)
    return path.name if path.is_absolute() or len(path.parts) > 2 else name


def student(run: RunCard) -> Cell:
    """The student of a run by name, size and content, and how much of it was trained if not all."""
    return model(run.student, run.trained_parameters)


def model(ref: ModelRef | None, trained: int = 0) -> Cell:
    """A model by name, size and content; ``trained``: parameters of adapters, if only they were."""
    if ref is None:
        return "none"
    size = f"{ref.parameters / 1e6:.4g}M parameters" if ref.parameters else "no parameters"
    size += f", {trained / 1e6:.4g}M trained" if trained else ""
    return (f"{model_name(ref.name)} ({size}, ", Code(ref.fingerprint[:12]), ")")


def signature(summary: Summary) -> list[Part]:
    """The line that says how the numbers came about, if there is one."""
    return [Paragraph(Code(summary.signature), note=True)] if summary.signature else []


def scores(summary: Summary) -> Part:
    """Every metric of every evaluation with its interval."""
    rows: list[list[Cell]] = []
    for _, found in sorted(summary.scores.items()):
        name = f"{found.task}[{found.edition}] {found.protocol}"
        for metric in sorted(found.metrics, key=rank):
            rows.append([name, info(metric).label, *_value(found.metrics[metric], metric)])
    if not rows:
        return Paragraph("Nothing was evaluated.")
    head = ["task", "metric", "mean", "95% interval", "prompts", "decoding seeds"]
    return Table(head, rows, right=(2, 3, 4))


def _value(value: Estimate | Missing, metric: str) -> list[Cell]:
    if isinstance(value, Missing):
        return ["–", value.missing, "", ""]
    seeds = ", ".join(map(str, value.seeds)) or "none"
    mean = number(value.mean, metric)
    return [mean, interval(value, metric), str(value.n_prompts), seeds]


def learned(summary: Summary) -> list[list[str]]:
    """Development metrics before training, of the kept student and at the end."""
    return [[name.replace("_", " "), f"{v:.4g}"] for name, v in summary.learned.items()]


def costs(booked: Sequence[Mapping[str, StageCost]]) -> list[list[str]]:
    """Time, tokens and memory a stage: means over the runs that have it, the largest memory."""
    found = []
    for stage in dict.fromkeys(name for cost in booked for name in cost):
        those = [cost[stage] for cost in booked if stage in cost]
        names = dict.fromkeys(name for cost in those for name in cost.tokens)
        tokens = [
            f"{name.replace('_', ' ')} {sum(c.tokens.get(name, 0) for c in those) / len(those):,.0f}"
            for name in names
        ]
        peak = max(cost.peak_mb for cost in those)
        seconds = sum(cost.wall_s for cost in those) / len(those)
        planned = max(cost.planned_mb for cost in those)
        memory = f"{peak:,.0f} MB" if peak else ""
        memory += f" ({planned:,.0f} planned)" if peak and planned else ""
        found.append([stage, _time(seconds), ", ".join(tokens), memory])
    return found


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# -- how to make it again -------------------------------------------------------------------------


def provenance(manifest: Manifest) -> Table:
    """Code, data, versions, hardware."""
    changed = " with changes" if manifest.git_diff_sha256 else ""
    commit: Cell = manifest.kdbench
    if manifest.git_commit:
        commit = (f"{manifest.kdbench} ", Code(manifest.git_commit[:12]), changed)
    data: list[list[Cell]] = [[f"data: {k}", _data(entry)] for k, entry in manifest.data.items()]
    rows: list[list[Cell]] = [
        ["kdbench", commit],
        ["tokenizer", Code(manifest.tokenizer_sha256[:12])],
        *data,
        ["versions", _named(manifest.versions)],
        ["hardware", _named(manifest.hardware)],
    ]
    if manifest.drift:
        rows.append(["accepted drift", "; ".join(manifest.drift)])
    return Table([], rows)


def reproduction(manifest: Manifest) -> list[Part]:
    """The command as it was given, and the configuration."""
    config = json.dumps(manifest.config, indent=1, ensure_ascii=False)
    return [Block(shlex.join(manifest.argv)), Block(config, "json")]


def _data(entry: Mapping[str, object]) -> str:
    return _named({name: str(v)[:12] if name == "sha256" else v for name, v in entry.items()})


def _named(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
