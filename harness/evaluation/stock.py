"""lm-eval's generation tasks, ours to answer: its prompts, few-shot examples, stops and scores, our
engine, stored samples and decoding seeds. Likelihood tasks are in `kdbench.harness.evaluation.likelihoods`.
"""

from collections.abc import Sequence
from typing import Any

from kdbench.harness.config import RunConfig
from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import prompt_hash, prompt_key, render
from kdbench.harness.data.tokens import TokenCounts, encode
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.likelihoods import KEPT, documents, plain, whole_set
from kdbench.harness.evaluation.names import include_folders
from kdbench.harness.files.records import EvaluationRecord, SampleRow, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.files.store import write_json
from kdbench.harness.identity import digest
from kdbench.harness.lm.answers import StockPrompt, score_stock, stock_prompts
from kdbench.harness.lm.tasks import metric_cards
from kdbench.harness.questions import PreparedTask, PromptDoc
from kdbench.harness.text_model import encode_whole
from kdbench.tasks.catalogue import join_edition
from kdbench.tasks.protocols import Protocol


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
    limit, template = config.tasks.limit, config.tasks.template or config.pair.template
    asked = stock_prompts(
        name,
        include_paths=include_folders(config.tasks.include_path),
        limit=limit,
        chat=tokenizer if template == "chat" else None,
    )
    one = asked[0].settings
    if any(prompt.settings != one for prompt in asked):
        raise InputError(
            f"the parts of lm-eval task {name!r} are answered in different ways; name them one by one"
        )
    if room <= one.max_new_tokens:
        raise InputError(
            f"lm-eval task {name!r} wants {one.max_new_tokens} new tokens, the model has a context of "
            f"{room}; choose another task or model"
        )
    docs = [_doc(place, prompt, template, tokenizer, room) for place, prompt in enumerate(asked)]
    shared: dict[str, Any] = {
        "source": "lm-eval",
        "place": config.tasks.include_path or "",
        "edition": join_edition("lm-eval", limit),
        "template": template,
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
    counts = TokenCounts(rows=len(docs), kept=len(docs))
    task = PreparedTask(task=name, protocol=protocol, docs=tuple(docs), counts=counts, **shared)
    return task, record


def _doc(place: int, prompt: StockPrompt, template: str, tokenizer: Any, room: int) -> PromptDoc:
    text = prompt.context
    if template not in ("chat", "none"):  # lm-eval renders chats itself, examples as turns and all
        text = render(Example(place, text, "", prompt.targets), template, tokenizer)
    ids = encode_whole(tokenizer, text)[-(room - prompt.settings.max_new_tokens) :]
    return PromptDoc(
        doc_id=place,
        prompt=text,
        prompt_hash=prompt_hash(text),
        key=prompt_key(text),
        ids=tuple(ids),
        references=prompt.targets,
        category=prompt.task,
        reference_tokens=min(len(ids) for ids in encode(tokenizer, prompt.targets)),
        sample=prompt.repeat,
    )


def score_samples(
    record: EvaluationRecord, evaluation: Evaluation, samples: Sequence[SampleRow]
) -> tuple[list[ScoreRow], dict[str, Any]]:
    """lm-eval's scores of stored answers, every decoding seed by itself.

    Raises:
        InputError: the task asks something else by now than was answered.
    """
    results = {}
    for seed in record.seeds:
        rows = sorted((row for row in samples if row.seed == seed), key=lambda row: row.doc_id)
        results[seed] = score_stock(
            record.task,
            [row.response for row in rows],
            [row.references for row in rows],
            include_paths=include_folders(record.place or None),
            limit=record.limit,
        )
    first = results[record.seeds[0]]
    write_json(evaluation.results, plain({key: first.get(key) for key in KEPT}))
    asked = {row.doc_id: row for row in samples}
    by_seed = [documents(results[seed]) for seed in record.seeds]
    repeats = len(asked) // len(by_seed[0])
    rows = []
    for place, (_, _, names) in enumerate(by_seed[0]):
        sample = asked[place * repeats]
        rows.append(
            ScoreRow(
                doc_id=sample.doc_id,
                prompt_hash=sample.prompt_hash,
                category=sample.category,
                reference_tokens=sample.reference_tokens,
                seeds=record.seeds,
                metrics={
                    name: [float(found[place][1][name]) for found in by_seed] for name in names
                },
            )
        )
    return rows, {"cards": metric_cards(first), "whole": whole_set(first)}
