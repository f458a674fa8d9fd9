"""``kdbench show``: one run's card, or one prompt with every stored answer.

What users and models wrote is printed with its control characters shown, not sent to the terminal.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.harness.verbs import options

Document = dict[str, Any]


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
    folder = find_run(run, runs_dir)
    document = card(folder) if sample is None else answers(folder, sample, task)
    if json_output:
        from kdbench.reports.data import visible_json

        typer.echo(visible_json(document, indent=2))
    elif sample is None:
        _print_card(document)
    else:
        _print_answers(document)


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


def card(folder: Path) -> Document:
    """What is known about a run: configuration in short, stages, scores, cost."""
    from kdbench.harness.files.store import read_json

    config = read_json(folder / "config.json")
    document: Document = {
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


def answers(folder: Path, doc_id: int, task: str | None = None) -> Document:
    """A prompt and its answers under every evaluation and decoding seed of a run.

    Raises:
        InputError: no stored answer to that prompt.
    """
    from kdbench.harness.errors import InputError
    from kdbench.harness.files.records import SampleRow
    from kdbench.harness.files.store import read_records

    prompts: dict[tuple[str, str], Document] = {}
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


def _print_card(document: Document) -> None:
    from kdbench.reports.printable import printable

    scores = document.pop("scores", {})
    training = document.pop("training")
    for key, value in document.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {_brief(v)}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        typer.echo(printable(f"{key:12} {value}"))
    settings = ", ".join(f"{k} {_brief(v)}" for k, v in training.items())
    typer.echo(printable(f"{'training':12} {settings}"))
    for entry in scores.values():
        title = f"{entry['task']}[{entry['edition']}] {entry['protocol']}"
        for metric, value in entry["metrics"].items():
            if "missing" in value:
                text = f"missing: {value['missing']}"
            else:
                text = f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
            typer.echo(printable(f"{title:36} {metric:16} {text}"))


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        inner = ", ".join(f"{k} {_brief(v)}" for k, v in value.items() if v not in ({}, None))
        return f"({inner})"
    return str(value)


def _print_answers(document: Document) -> None:
    from kdbench.reports.document import visible
    from kdbench.reports.printable import printable

    for entry in document["prompts"]:
        typer.secho(printable(f"{entry['task']} {document['doc_id']}"), bold=True)
        typer.echo(visible(entry["prompt"]))
        for reference in entry["references"]:
            typer.secho("\nreference", bold=True)
            typer.echo(visible(reference))
        for answer in entry["answers"]:
            end = "" if answer["finished"] else ", cut at the length limit"
            title = f"{answer['evaluation']} seed {answer['seed']} ({answer['tokens']} tokens{end})"
            typer.secho(f"\n{printable(title)}", bold=True)
            typer.echo(visible(answer["response"]))
        typer.echo()
