"""The card of one run: what was trained, how well it does, what it cost, how to make it again."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Estimate, Manifest, Missing, ModelRef, Summary
from kdbench.harness.files.store import read_record
from kdbench.harness.metrics import info, rank
from kdbench.reports.load import read_summary
from kdbench.reports.text.document import (
    Block,
    Cell,
    Code,
    Document,
    Paragraph,
    Part,
    Section,
    Table,
)
from kdbench.reports.text.markdown import Markdown
from kdbench.reports.text.style import number


def run_card(folder: Path | str) -> str:
    """Card of a finished run folder, as Markdown.

    Raises:
        InputError: the run is not finished, or a file of it cannot be read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"no folder {path}; list runs with: kdbench ls runs")
    return render_card(read_summary(path), read_manifest(path))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a run; None if it was not written yet."""
    path = folder / "manifest.json"
    return read_record(path, Manifest) if path.is_file() else None


def render_card(summary: Summary, manifest: Manifest | None = None) -> str:
    """Card from the records themselves, as Markdown."""
    sections = [
        Section("Run", [identity(summary)]),
        Section("Scores", [scores(summary), *signature(summary)]),
    ]
    if summary.learned:
        sections.append(Section("Learning", [learning(summary)]))
    if summary.cost:
        sections.append(Section("Cost", [cost(summary)]))
    if manifest:
        sections += provenance(manifest)
    return Markdown().write(Document(title(summary), sections))


def title(summary: Summary) -> str:
    """Method, variant and suite."""
    run = summary.run
    return f"{run.method} {run.variant}".strip() + f" on {run.suite}"


def identity(summary: Summary) -> Table:
    """Who made the student, from what."""
    run = summary.run
    rows: list[list[Cell]] = [
        ["run", (Code(run.id), f" ({run.kind}, regime {run.regime})")],
        ["teacher", model(run.teacher)],
        ["student", model(run.student)],
        ["training seed", "none" if run.training_seed is None else str(run.training_seed)],
    ]
    return Table([], rows)


def model_name(name: str) -> str:
    """A model's name without the folders of the machine it lay on; hub ids stay as they are."""
    path = Path(name)
    return path.name if path.is_absolute() or len(path.parts) > 2 else name


def model(ref: ModelRef | None) -> Cell:
    """A model by name, size and content."""
    if ref is None:
        return "none"
    size = f"{ref.parameters / 1e6:.4g}M parameters" if ref.parameters else "no parameters"
    return (f"{model_name(ref.name)} ({size}, ", Code(ref.fingerprint[:12]), ")")


def signature(summary: Summary) -> list[Part]:
    """The line that says how the numbers came about, if there is one."""
    return [Paragraph(Code(summary.signature), note=True)] if summary.signature else []


def scores(summary: Summary) -> Part:
    """Every metric of every evaluation with its interval."""
    rows: list[list[Cell]] = []
    for key in sorted(summary.scores):
        found = summary.scores[key]
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
    bounds = f"[{number(value.low, metric)}, {number(value.high, metric)}]"
    seeds = ", ".join(map(str, value.seeds)) or "none"
    return [number(value.mean, metric), bounds, str(value.n_prompts), seeds]


def learning(summary: Summary) -> Table:
    """Development metrics before training, of the kept student and at the end."""
    rows: list[list[Cell]] = [[name, f"{value:.4g}"] for name, value in summary.learned.items()]
    return Table(["dev set", "value"], rows)


def cost(summary: Summary) -> Table:
    """Time, tokens and memory a stage."""
    rows: list[list[Cell]] = [
        [
            stage,
            f"{spent.wall_s:.1f} s",
            ", ".join(f"{name} {count:,}" for name, count in spent.tokens.items()),
            f"{spent.peak_mb:.0f} MB" if spent.peak_mb else "",
        ]
        for stage, spent in summary.cost.items()
    ]
    return Table(["stage", "time", "tokens", "peak memory"], rows, right=(1, 3))


def provenance(manifest: Manifest) -> list[Section]:
    """Code, data, versions, hardware; the command and the configuration."""
    changed = " with changes" if manifest.git_diff_sha256 else ""
    commit: Cell = manifest.kdbench
    if manifest.git_commit:
        commit = (f"{manifest.kdbench} ", Code(manifest.git_commit[:12]), changed)
    used: list[list[Cell]] = [[f"data: {k}", _data(entry)] for k, entry in manifest.data.items()]
    rows: list[list[Cell]] = [
        ["kdbench", commit],
        ["tokenizer", Code(manifest.tokenizer_sha256[:12])],
        *used,
        ["versions", ", ".join(f"{k} {v}" for k, v in manifest.versions.items())],
        ["hardware", ", ".join(f"{k} {v}" for k, v in manifest.hardware.items())],
    ]
    if manifest.drift:
        rows.append(["accepted drift", "; ".join(manifest.drift)])
    config = json.dumps(manifest.config, indent=1, ensure_ascii=False)
    return [
        Section("Provenance", [Table([], rows)]),
        Section("To reproduce", [Block(shlex.join(manifest.argv)), Block(config, "json")]),
    ]


def _data(entry: Mapping[str, object]) -> str:
    return ", ".join(f"{k} {str(v)[:12] if k == 'sha256' else v}" for k, v in entry.items())
