"""``kdbench show``: one run's card, or one prompt with every stored answer.

What users and models wrote is printed with its control characters shown, not sent to the terminal.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.harness.errors import InputError
from kdbench.harness.verbs import options
from kdbench.reports.text.document import Answer, Document, Sample, Section, Table

if TYPE_CHECKING:
    from kdbench.harness.files.records import RunCard
    from kdbench.harness.files.run_folder import RunFolder

Facts = dict[str, Any]


def show(
    run: options.RunName,
    sample: Annotated[
        int | None, typer.Option(help="Show the prompt with this doc_id and all its answers.")
    ] = None,
    task: Annotated[str | None, typer.Option("--tasks", "--task", help="Only this task.")] = None,
    runs_dir: options.RunsDir = options.RUNS,
    json_output: options.Json = False,
) -> None:
    """Show a run's card, or with --sample N one prompt and every answer to it."""
    shown = options.named_run(run, runs_dir)
    if sample is None:
        found = card(shown)
        document = card_document(found)
    else:
        found = answers(shown, sample, task)
        document = answers_document(found)
    options.deliver(document, found, json_output=json_output)


def card(run: "RunFolder") -> Facts:
    """What is known about a run: configuration in short, stages, scores, cost."""
    config, summary = run.config.read().tree(), run.summary.find()
    facts: Facts = {
        "run": run.name,
        "folder": str(run.path),
        "suite": config["suite"],
        "regime": config["regime"],
        **_made_by(run, config, summary.run if summary else None),
        "stages": run.stages(),
        "evaluations": [evaluation.key for evaluation in run.evaluations()],
    }
    if summary:
        shown = {"scores", "learned", "cost", "signature"}
        if summary.run.selection:
            facts["selected"] = summary.run.selection
        facts |= summary.model_dump(mode="json", include=shown)
    return facts


def _made_by(run: "RunFolder", config: Facts, card: "RunCard | None") -> Facts:
    """Method, models and training; of an evaluated model its label: its configuration is that of a method."""
    kind, _, label = run.name.rpartition("-")[0].partition("-")
    method, pair = config["method"], config["pair"]
    facts = {"method": method["name"], "teacher": pair["teacher"], "student": pair["student"]}
    if card is not None:
        models = {"teacher": card.teacher, "student": card.student}
        named = {name: model.name for name, model in models.items() if model is not None}
        facts = {"method": card.method, **named}
    elif kind == "eval":  # not finished
        facts = {"method": label}
    if kind == "eval" if card is None else card.kind == "eval":
        return facts
    training = {key: value for key, value in config["train"].items() if value is not None}
    return {**facts, "options": method["options"], "training": training}


def answers(run: "RunFolder", doc_id: int, task: str | None = None) -> Facts:
    """A prompt and its answers under every evaluation and decoding seed of a run.

    Raises:
        InputError: no stored answer to that prompt.
    """
    prompts: dict[tuple[str, str], Facts] = {}
    seen: set[int] = set()
    for evaluation in run.evaluations():
        if task not in (None, evaluation.task):
            continue
        for row in evaluation.samples():
            seen.add(row.doc_id)
            if row.doc_id != doc_id:
                continue
            about = {"task": evaluation.task, "prompt": row.prompt, "references": row.references}
            place = (evaluation.task, row.prompt_hash)
            prompts.setdefault(place, {**about, "answers": []})["answers"].append(
                {
                    "evaluation": evaluation.key,
                    "seed": row.seed,
                    "response": row.response,
                    "tokens": row.response_tokens,
                    "finished": row.finished,
                }
            )
    if not prompts:
        have = f"doc_id {min(seen)} to {max(seen)}" if seen else "no samples"
        wanted = f"{task} " if task else ""
        raise InputError(f"{run.name} has no {wanted}sample {doc_id}; it has {have}")
    return {"run": run.name, "doc_id": doc_id, "prompts": list(prompts.values())}


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
    means = [Table(["task", "metric", "mean"], rows, right=(2,))] if rows else []
    return Document("", [Section("", [Table([], facts), *means])])


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
        inner = ((k, isinstance(v, dict), _brief(v)) for k, v in value.items())
        return ", ".join(
            f"{k} ({v})" if deep else f"{k} {v}" for k, deep, v in inner if v or not deep
        )
    return str(value)
