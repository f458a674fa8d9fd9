"""``kdbench show``: one run's card, or one prompt with every stored answer.

What users and models wrote is printed with its control characters shown, not sent to the terminal.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.harness.verbs import options
from kdbench.reports.text.document import Answer, Document, Sample, Section, Table

Facts = dict[str, Any]


def show(
    run: Annotated[Path, typer.Argument(help="Run folder, or its name (or a part) in --runs-dir.")],
    sample: Annotated[
        int | None, typer.Option(help="Show the prompt with this doc_id and all its answers.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> None:
    """Show a run's card, or with --sample N one prompt and every answer to it."""
    from kdbench.reports.text.style import visible_json
    from kdbench.reports.text.terminal import show as show_document

    folder = find_run(run, runs_dir)
    found = card(folder) if sample is None else answers(folder, sample, task)
    if json_output:
        typer.echo(visible_json(found, indent=2))
    else:
        show_document(card_document(found) if sample is None else answers_document(found))


def find_run(run: Path, runs_dir: Path) -> Path:
    """A run folder by path, name, or a part of its name that only one has.

    Raises:
        InputError: none, or several.
    """
    from kdbench.harness.errors import InputError, unknown

    for folder in (run, runs_dir / run):
        if (folder / "config.json").is_file():
            return folder
    children = sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []
    names = [child.name for child in children if (child / "config.json").is_file()]
    fitting = [name for name in names if str(run) in name]
    if len(fitting) == 1:
        return runs_dir / fitting[0]
    if fitting:
        raise InputError(f"{run} fits several runs ({', '.join(fitting)}); give more of the name")
    if not names:
        raise InputError(f"no run folder {run}, and none in {runs_dir}; see: kdbench ls runs")
    raise unknown("run", str(run), names, f" in {runs_dir}")


def card(folder: Path) -> Facts:
    """What is known about a run: configuration in short, stages, scores, cost."""
    from kdbench.harness.files.store import read_json

    config = read_json(folder / "config.json")
    document: Facts = {
        "run": folder.name,
        "folder": str(folder),
        "suite": config["suite"],
        "regime": config["regime"],
        "method": config["method"]["name"],
        "options": config["method"]["options"],
        "teacher": config["pair"]["teacher"],
        "student": config["pair"]["student"],
        "training": {k: v for k, v in config["train"].items() if v is not None},
        "stages": sorted(path.stem for path in folder.glob("*.done")),
        "evaluations": sorted(p.name for p in (folder / "eval").glob("*@*") if p.is_dir()),
    }
    if (folder / "summary.json").is_file():
        summary = read_json(folder / "summary.json")
        document |= {key: summary.get(key, {}) for key in ("scores", "learned", "cost")}
        document["signature"] = summary.get("signature", "")
    return document


def answers(folder: Path, doc_id: int, task: str | None = None) -> Facts:
    """A prompt and its answers under every evaluation and decoding seed of a run.

    Raises:
        InputError: no stored answer to that prompt.
    """
    from kdbench.harness.errors import InputError
    from kdbench.harness.files.records import SampleRow
    from kdbench.harness.files.store import read_records

    prompts: dict[tuple[str, str], Facts] = {}
    seen: set[int] = set()
    for path in sorted((folder / "eval").glob("*@*/samples.seed*.jsonl")):
        name = path.parent.name.partition("@")[0]
        if task is not None and name != task:
            continue
        for row in read_records(path, SampleRow):
            seen.add(row.doc_id)
            if row.doc_id != doc_id:
                continue
            entry = prompts.setdefault(
                (name, row.prompt_hash),
                {"task": name, "prompt": row.prompt, "references": row.references, "answers": []},
            )
            entry["answers"].append(
                {
                    "evaluation": path.parent.name,
                    "seed": row.seed,
                    "response": row.response,
                    "tokens": row.response_tokens,
                    "finished": row.finished,
                }
            )
    if not prompts:
        have = f"doc_id {min(seen)} to {max(seen)}" if seen else "no samples"
        wanted = f"{task} " if task else ""
        raise InputError(f"{folder.name} has no {wanted}sample {doc_id}; it has {have}")
    for entry in prompts.values():
        entry["answers"].sort(key=lambda answer: (answer["evaluation"], answer["seed"]))
    return {"run": folder.name, "doc_id": doc_id, "prompts": list(prompts.values())}


def card_document(known: Facts) -> Document:
    """What is known as facts, then a table of scores."""
    from kdbench.harness.files.records import EvaluationScores
    from kdbench.reports.text.style import value_cell

    scores = [EvaluationScores.model_validate(entry) for entry in known.get("scores", {}).values()]
    rows = [
        [f"{entry.task}[{entry.edition}] {entry.protocol}", metric, value_cell(value, metric)]
        for entry in scores
        for metric, value in entry.metrics.items()
    ]
    facts = [[key, _brief(value)] for key, value in known.items() if key != "scores"]
    tables = [
        Table([], facts),
        *([Table(["task", "metric", "mean"], rows, right=(2,))] if rows else []),
    ]
    return Document("", [Section("", tables)])


def answers_document(found: Facts) -> Document:
    """The prompt and its answers, under each task."""
    samples = []
    for entry in found["prompts"]:
        answers = [Answer("reference", text) for text in entry["references"]]
        for answer in entry["answers"]:
            end = "" if answer["finished"] else ", cut at the length limit"
            who = f"{answer['evaluation']} seed {answer['seed']}"
            answers.append(Answer(who, answer["response"], f"{answer['tokens']} tokens{end}"))
        samples.append(Sample(f"{entry['task']} {found['doc_id']}", entry["prompt"], answers))
    return Document("", [Section("", samples)])


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        parts = {
            k: f"({_brief(v)})" if isinstance(v, dict) else _brief(v) for k, v in value.items()
        }
        return ", ".join(f"{key} {part}" for key, part in parts.items() if part != "()")
    return str(value)
