"""Tasks of lm-eval's and of third parties.

Generation tasks are ours to answer: its prompts, few-shot examples, stops and scores, our engine,
stored samples and decoding seeds. All others are run by lm-eval over our engine. What asks lm-eval
imports it where it is used: that takes a second of a core, and tasks of our own need none of it.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbench.harness.config import RunConfig
from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import PromptFormat, render
from kdbench.harness.data.tokens import TokenCounts, encode_whole
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.likelihoods import Found, Reading
from kdbench.harness.evaluation.names import include_folders
from kdbench.harness.evaluation.rehearsal import check_targets
from kdbench.harness.files.records import EvaluationRecord, Missing, SampleRow, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.files.store import write_json
from kdbench.harness.identity import digest
from kdbench.harness.metrics import METRICS
from kdbench.harness.probes.subject import SEED
from kdbench.harness.questions import PreparedTask, PromptDoc, prompt_doc
from kdbench.harness.text_model import TextModel, chat_text
from kdbench.tasks.catalogue import join_edition
from kdbench.tasks.docs import Percent
from kdbench.tasks.protocols import Protocol

if TYPE_CHECKING:
    from kdbench.harness.lm.answers import StockPrompt

KEPT = (
    "results",
    "groups",
    "versions",
    "n-shot",
    "higher_is_better",
    "n-samples",
    "task_hashes",
    "configs",
)
"""What of lm-eval's results goes into results.json, beside kdbench's own files."""


def generates(name: str, folders: Sequence[Path]) -> bool:
    """Whether a task of lm-eval's is answered in words; see `kdbench.harness.lm.tasks.generates`."""
    from kdbench.harness.lm import tasks

    return tasks.generates(name, folders)


def prepare(
    name: str,
    config: RunConfig,
    facts: dict[str, Any],
    tokenizer: Any,
    protocol: Protocol,
    room: int,
) -> tuple[PreparedTask, EvaluationRecord]:
    """The prompts of a generation task, and what decides the samples.

    Args:
        name: the task inside lm-eval.
        config: limit, template, seeds.
        facts: of the model, for the record.
        tokenizer: the model's.
        protocol: named in the record; its rules do not apply to lm-eval's prompts.
        room: context of the model in tokens, prompt and answer together; a prompt that is too long
            loses tokens on the left, as in lm-eval.

    Raises:
        InputError: the task cannot be loaded, its settings leave no room for a prompt, or its
            prompts are to be answered in different ways.
    """
    from kdbench.harness.lm.answers import stock_prompts

    limit, form = config.tasks.limit, config.task_format
    asked = stock_prompts(
        name,
        include_paths=include_folders(config.tasks.include_path),
        limit=limit,
        chat=partial(chat_text, tokenizer, form) if form.template == "chat" else None,
    )
    one = asked[0].settings
    if any(prompt.settings != one for prompt in asked):
        raise InputError(
            f"the parts of lm-eval task {name!r} are answered in different ways; name them one by one"
        )
    check_room(name, one.max_new_tokens, room)
    made = [_doc(place, prompt, form, tokenizer, room) for place, prompt in enumerate(asked)]
    docs, lost = zip(*made, strict=True)
    shared: dict[str, Any] = {
        "source": "lm-eval",
        "place": config.tasks.include_path or "",
        "edition": join_edition("lm-eval", limit),
        "template": form.template,
        "data_sha256": digest([[p.task, p.context, p.targets, one] for p in asked]),
    }
    record = EvaluationRecord(
        task=name,
        protocol=protocol.name,
        decoding=one,
        # a greedy answer is the same whatever the seed
        seeds=list(config.generate.seeds) if one.temperature else [config.generate.seeds[0]],
        **shared,
        **facts,
    )
    cut = sum(tokens > 0 for tokens in lost)
    counts = TokenCounts(rows=len(docs), kept=len(docs), prompts_cut=cut)
    task = PreparedTask(task=name, protocol=protocol, docs=docs, counts=counts, **shared)
    return task, record


def check_room(name: str, wanted: int, room: int) -> None:
    """Raises InputError where a task's answers leave no room for a prompt in a model's context."""
    if wanted and room <= wanted:
        raise InputError(
            f"lm-eval task {name!r} wants {wanted} new tokens, the model has a context of {room}; "
            "choose another task or model"
        )


def _doc(
    place: int, prompt: "StockPrompt", form: PromptFormat, tokenizer: Any, room: int
) -> tuple[PromptDoc, int]:
    """A prompt, and how many tokens it lost on the left."""
    text = prompt.context
    if form.template not in (
        "chat",
        "none",
    ):  # lm-eval renders chats itself, examples as turns and all
        text = render(Example(place, text, "", prompt.targets), form, tokenizer)
    whole = encode_whole(tokenizer, text, form)
    ids = whole[-(room - prompt.settings.max_new_tokens) :]
    known = {"doc_id": place, "category": prompt.task, "ids": tuple(ids), "sample": prompt.repeat}
    return prompt_doc(tokenizer, text, prompt.targets, **known), len(whole) - len(ids)


def score_samples(
    record: EvaluationRecord,
    evaluation: Evaluation,
    samples: Sequence[SampleRow],
    task_files: str | None = None,
) -> tuple[list[ScoreRow], dict[str, Any]]:
    """lm-eval's scores of stored answers, every decoding seed by itself.

    Raises:
        InputError: the task asks something else by now than was answered, or is not there.
    """
    from kdbench.harness.lm.answers import score_stock
    from kdbench.harness.lm.tasks import metric_cards

    folders, results = include_folders(task_files), {}
    if record.place and not task_files:
        raise InputError(
            f"{evaluation.path} was made with task files in {record.place}, which can run code, so "
            "they are read only where the command line names their folder: "
            f"--include-path {shlex.quote(record.place)}"
        )
    for seed in record.seeds:
        rows = sorted((row for row in samples if row.seed == seed), key=lambda row: row.doc_id)
        results[seed] = score_stock(
            record.task,
            [row.response for row in rows],
            [row.references for row in rows],
            include_paths=folders,
            limit=record.limit,
        )
    first = results[record.seeds[0]]
    keep_results(evaluation, first)
    asked = {row.doc_id: row for row in samples}
    by_seed = [documents(results[seed]) for seed in record.seeds]
    repeats = len(asked) // len(by_seed[0])
    scored = []
    for place, (_, names) in enumerate(by_seed[0]):
        sample = asked[place * repeats].model_dump(include=set(ScoreRow.model_fields))
        found = {name: [each[place][1][name] for each in by_seed] for name in names}
        scored.append(ScoreRow(seeds=record.seeds, **measured(found), **sample))
    return scored, {"cards": metric_cards(first, scored), "whole": whole_set(first)}


def likelihood_task(name: str, config: RunConfig, facts: dict[str, Any]) -> Reading:
    """A task that reads likelihoods, as lm-eval would run it: its own prompts, in the chat format if
    that is the template of tasks, else as they are.
    """
    from kdbench.harness.lm.likelihoods import evaluate_stock
    from kdbench.harness.lm.tasks import metric_cards, stock_identity
    from kdbench.harness.lm.version import scored_by

    folders, limit = include_folders(config.tasks.include_path), config.tasks.limit
    chat = config.task_template == "chat"

    def measure(model: TextModel, evaluation: Evaluation) -> Found:
        results = evaluate_stock(model, name, limit=limit, include_paths=folders, chat=chat)
        check_targets(results)
        keep_results(evaluation, results)
        # groups are pooled
        scores = [
            ScoreRow(
                doc_id=place,
                prompt_hash=str(sample["prompt_hash"])[:16],
                category=sample["task"] if sample["task"] != name else None,
                reference_tokens=1,
                seeds=[SEED],
                **measured({metric: [value] for metric, value in metrics.items()}),
            )
            for place, (sample, metrics) in enumerate(documents(results))
        ]
        cut = results["prompts_cut"]
        return Found(scores, whole_set(results), metric_cards(results, scores), cut=cut)

    record = EvaluationRecord(
        task=name,
        source="lm-eval",
        place=config.tasks.include_path or "",
        edition=join_edition("lm-eval", limit),
        protocol=config.tasks.protocol,
        template="chat" if chat else "none",
        data_sha256=stock_identity(name, include_paths=folders, limit=limit),
        seeds=[SEED],
        **facts,
    )
    return Reading(record, scored_by(name, folders), measure)


# -- what lm-eval found -------------------------------------------------------------------------


def keep_results(evaluation: Evaluation, results: dict[str, Any]) -> None:
    """results.json."""
    write_json(evaluation.results, plain({key: results.get(key) for key in KEPT}))


def documents(results: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """(logged sample with its ``task``, metrics that are averaged over documents), in order of both.

    A metric that has a name of ours is in our unit: lm-eval's exact match is a share, ours in percent.
    Values that a task's code returns are taken for shares too, unless they are `Percent`.
    """
    found = []
    for task, logged in results["samples"].items():
        # a task may read its answers in several ways; the first is its headline
        samples = [sample for sample in logged if sample["filter"] == logged[0]["filter"]]
        names = [
            name
            for name in samples[0].get("metrics", ())
            if name in results["averaged"][task]
            and all(isinstance(sample[name], (int, float)) for sample in samples)
        ]
        for sample in sorted(samples, key=lambda s: s["doc_id"]):
            values = {name: _in_our_unit(name, sample[name]) for name in names}
            found.append(({**sample, "task": task}, values))
    return found


def measured(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Of a score row: the metrics of a document that are finite, and why others have no value."""
    odd = {
        name: next(value for value in each if not math.isfinite(value))
        for name, each in values.items()
        if not all(map(math.isfinite, each))
    }
    return {
        "metrics": {name: each for name, each in values.items() if name not in odd},
        "missing": {name: f"the metric is {value} for an answer" for name, value in odd.items()},
    }


def _in_our_unit(metric: str, value: float) -> float:
    share = metric in METRICS and METRICS[metric].high == 100.0 and not isinstance(value, Percent)
    return float(value) * (100.0 if share else 1.0)


def whole_set(results: dict[str, Any]) -> dict[str, Any]:
    """lm-eval's own aggregates, which have no interval here: a reason that names the value."""
    found: dict[str, Any] = {}
    for values in (results.get("results") or {}).values():
        for name, value in values.items():
            metric, _, filtered = name.partition(",")
            if filtered and not metric.endswith("_stderr") and isinstance(value, float):
                reason = f"lm-eval aggregates it over the whole set ({value:.6g}); see results.json"
                found[metric] = Missing(missing=reason).model_dump()
    return found


def plain(value: Any) -> Any:
    """JSON without what JSON cannot hold: functions in task configurations, numpy numbers, nan."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", None) or str(value)
