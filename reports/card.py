"""The card of one run as Markdown: what was trained, how well it does, what it cost."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from kdbench.harness.errors import InputError
from kdbench.harness.records import Estimate, Manifest, Missing, ModelRef, Summary
from kdbench.harness.store import read_record
from kdbench.reports.load import read_summary
from kdbench.reports.markdown import escape
from kdbench.reports.metrics import info, rank
from kdbench.reports.text import code, number


def run_card(folder: Path | str) -> str:
    """Card of a finished run folder; ``kdbench show RUN`` prints it.

    Raises:
        InputError: the run is not finished, or a file of it cannot be read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"no folder {path}; list runs with: kdbench ls runs")
    summary = read_summary(path)
    manifest_path = path / "manifest.json"
    manifest = read_record(manifest_path, Manifest) if manifest_path.is_file() else None
    return render_card(summary, manifest)


def render_card(summary: Summary, manifest: Manifest | None = None) -> str:
    """Card from the records themselves. Text from models and users is escaped."""
    run = summary.run
    title = f"{run.method} {run.variant}".strip()
    parts = [
        f"# {escape(title)} on {escape(run.suite)}",
        _table(
            ["", ""],
            [
                ["run", f"`{code(run.id)}` ({run.kind}, {run.regime}, {run.division})"],
                ["teacher", _model(run.teacher)],
                ["student", _model(run.student)],
                ["training seed", "none" if run.training_seed is None else str(run.training_seed)],
            ],
        ),
        "## Scores",
        _scores(summary),
    ]
    if summary.signature:
        parts.append(f"`{code(summary.signature)}`")
    if summary.learned:
        rows = [[escape(name), f"{value:.4g}"] for name, value in summary.learned.items()]
        parts += ["## Learning", _table(["dev set", "value"], rows)]
    if summary.cost:
        parts += ["## Cost", _cost(summary)]
    if manifest:
        parts += _provenance(manifest)
    return "\n\n".join(parts) + "\n"


def _model(model: ModelRef | None) -> str:
    if model is None:
        return "none"
    size = f"{model.parameters / 1e6:.4g}M parameters" if model.parameters else "no parameters"
    return f"{escape(model.name)} ({size}, `{code(model.fingerprint[:12])}`)"


def _scores(summary: Summary) -> str:
    rows = []
    for key in sorted(summary.scores):
        scores = summary.scores[key]
        name = f"{escape(f'{scores.task}[{scores.edition}]')} {escape(scores.protocol)}"
        for metric in sorted(scores.metrics, key=rank):
            value = scores.metrics[metric]
            rows.append([name, escape(info(metric).label), *_value(value, metric)])
    if not rows:
        return "Nothing was evaluated."
    return _table(["task", "metric", "mean", "95% interval", "prompts", "decoding seeds"], rows)


def _value(value: Estimate | Missing, metric: str) -> list[str]:
    if isinstance(value, Missing):
        return ["–", escape(value.missing), "", ""]
    bounds = f"[{number(value.low, metric)}, {number(value.high, metric)}]"
    seeds = ", ".join(map(str, value.seeds)) or "none"
    return [number(value.mean, metric), bounds, str(value.n_prompts), seeds]


def _cost(summary: Summary) -> str:
    rows = [
        [
            escape(stage),
            f"{cost.wall_s:.1f} s",
            escape(", ".join(f"{name} {count:,}" for name, count in cost.tokens.items())),
            f"{cost.peak_mb:.0f} MB" if cost.peak_mb else "",
        ]
        for stage, cost in summary.cost.items()
    ]
    return _table(["stage", "time", "tokens", "peak memory"], rows)


def _provenance(manifest: Manifest) -> list[str]:
    rows = [
        ["kdbench", f"{manifest.kdbench} {_commit(manifest)}".strip()],
        ["tokenizer", f"`{code(manifest.tokenizer_sha256[:12])}`"],
        *[[escape(f"data: {name}"), _data(entry)] for name, entry in manifest.data.items()],
        ["versions", escape(", ".join(f"{k} {v}" for k, v in manifest.versions.items()))],
        ["hardware", escape(", ".join(f"{k} {v}" for k, v in manifest.hardware.items()))],
    ]
    parts = ["## Provenance", _table(["", ""], rows)]
    if manifest.drift:
        parts.append("Accepted drift: " + escape("; ".join(manifest.drift)))
    config = json.dumps(manifest.config, indent=1, ensure_ascii=False)
    parts += ["## To reproduce", _block(shlex.join(manifest.argv)), _block(config, "json")]
    return parts


def _commit(manifest: Manifest) -> str:
    if not manifest.git_commit:
        return ""
    return f"`{code(manifest.git_commit[:12])}`" + (
        " with changes" if manifest.git_diff_sha256 else ""
    )


def _data(entry: Mapping[str, object]) -> str:
    parts = [f"{k} {str(v)[:12] if k == 'sha256' else v}" for k, v in entry.items()]
    return escape(", ".join(parts))


def _block(text: str, language: str = "") -> str:
    """A fenced block that its content cannot close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + ":---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
