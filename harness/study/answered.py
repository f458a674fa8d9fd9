"""Whether a stored evaluation is the one that a configuration asks for as things are now.

An evaluation is named by its task, and rows, arithmetic and scorers change under a name. What is told here
is told without a model: rows of files and of the data folder are read again where the files changed; the
hub is not asked, and what lm-eval's tasks contain only lm-eval knows.
"""

from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.config import GenerateConfig, RunConfig
from kdbench.harness.contents import stamps
from kdbench.harness.data.examples import Example, examples_sha256
from kdbench.harness.data.places import place_of
from kdbench.harness.data.sources import find_split, is_local
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.facts import model_facts
from kdbench.harness.evaluation.names import Asked, include_folders
from kdbench.harness.files.records import DecodingRecord, EvaluationRecord
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.identity import COMPANY, digest
from kdbench.harness.own.tasks import asked_rows
from kdbench.tasks.catalogue import task_examples
from kdbench.tasks.words import fitting

OF_THE_MODEL = ("model", "tokenizer", "engine")
"""Of `model_facts`, what a run's own folder answers for, and what depends on who answers."""
NEVER = (*OF_THE_MODEL, *COMPANY)
"""Nor is the batch company compared: its default may follow from the machine that decodes, and evaluations
that differ in it only stand in one column."""


class Rows(NamedTuple):
    """A task's rows as they are now: by content, and the tokenizer that fits their references."""

    sha256: str
    fitting: str


def asked_now(
    evaluation: Evaluation,
    record: EvaluationRecord,
    task: Asked,
    config: RunConfig,
    data_dir: Path | None,
) -> bool:
    """Whether an evaluation of ``task`` is there, of today's rows, settings and scorer.

    ``config`` has one way of answering; a precision that is still ``auto`` is not compared.
    """
    if not asked_so(record, task, config):
        return False
    rows = rows_now(task, config, data_dir)
    if rows is not None and rows.sha256 != record.data_sha256:
        return False
    return evaluation.scored.marked() and _scored(evaluation, record, task, config, rows)


def asked_so(record: EvaluationRecord, task: Asked, config: RunConfig) -> bool:
    """Whether it is an evaluation of ``task`` by these settings, of whatever rows and scorer."""
    return record.task == task.name and _settings(record, task, config)


def _settings(record: EvaluationRecord, task: Asked, config: RunConfig) -> bool:
    generate, tasks = config.generate, config.tasks
    wanted: dict[str, Any] = model_facts(config, None) | {"protocol": tasks.protocol}
    left = (*NEVER, *(["dtype"] if config.answer_precision == "auto" else []))
    if task.kind == "lm-eval":
        wanted |= {"source": "lm-eval"}  # of which files, the scorer knows, wherever they lie
        if record.decoding is not None:
            seeds = generate.seeds if record.decoding.temperature else generate.seeds[:1]
            wanted |= {"template": config.task_template, "seeds": list(seeds)}
        elif (record.template == "chat") != (config.task_template == "chat"):
            return False  # of no other template do likelihoods know
    elif task.kind == "labels":
        wanted |= {"source": "kdbench", "template": config.task_template}
    else:
        wanted |= {
            "source": "file" if task.kind == "file" else "kdbench",
            "template": config.task_template,
            "max_prompt": config.train.max_prompt,
            "seeds": list(generate.seeds),
        }
        if record.model != "truth":
            wanted["engine"], left = generate.engine, tuple(n for n in left if n != "engine")
        if not _drawn(record, generate, "file" if task.kind == "file" else tasks.edition):
            return False
    return all(digest(getattr(record, n)) == digest(v) for n, v in wanted.items() if n not in left)


def _drawn(record: EvaluationRecord, generate: GenerateConfig, edition: str) -> bool:
    drawn = generate.model_dump(include=set(DecodingRecord.model_fields), exclude_none=True)
    return (
        record.edition.partition(":")[0] == edition
        and record.decoding is not None
        and digest({n: getattr(record.decoding, n) for n in drawn}) == digest(drawn)
    )


def _scored(
    evaluation: Evaluation,
    record: EvaluationRecord,
    task: Asked,
    config: RunConfig,
    rows: Rows | None,
) -> bool:
    """Whether today's scorer made its scores."""
    # imported here: with scipy, which only finished runs are worth
    from kdbench.harness.evaluation.scoring import scored_as
    from kdbench.harness.lm.version import scored_by
    from kdbench.tasks.calibration import SCORER

    by = evaluation.scored.info().get("scorer")
    if task.kind in ("lm-eval", "labels"):
        folders = include_folders(config.tasks.include_path)
        return by == (scored_by(task.name, folders) if task.kind == "lm-eval" else SCORER)
    tokenizer = config.tasks.rouge_tokenizer
    fits = {scored_as(record, tokenizer)}
    # of rows in other scripts those that are asked may do with the papers' words: a protocol drops some
    if task.kind == "file" and tokenizer == "rouge" and (rows is None or rows.fitting != "rouge"):
        fits.add(scored_as(record, "unicode"))
    return by in fits


# -- rows -----------------------------------------------------------------------------------------

_known: dict[str, Rows] = {}


def rows_now(task: Asked, config: RunConfig, data_dir: Path | None) -> Rows | None:
    """Rows of a task on this machine, read again when their files changed.

    None of tasks whose rows follow from code, are on the hub, or are lm-eval's; of rows that cannot be
    read any more a content that no evaluation has, for who asks them again says what is wrong.
    """
    columns = {"tasks": config.tasks.columns, "data": config.data.columns}
    try:
        place = _place(task, config, data_dir)
        if place is None:
            return None
        key = digest([task, config.tasks.limit, columns, stamps(place.expanduser())])
        if key not in _known:
            examples = _examples(task, config, data_dir)
            words = fitting(text for example in examples for text in example.references)
            _known[key] = Rows(examples_sha256(examples), words)
    except InputError:
        return Rows("", "rouge")
    return _known[key]


def _place(task: Asked, config: RunConfig, data_dir: Path | None) -> Path | None:
    if task.kind == "file":
        place = place_of(task.place)
        return None if place.hub else Path(place.path)
    full = task.kind == "text" and config.tasks.edition == "full"
    if full and is_local(task.name, "test", data_dir):
        return find_split(task.name, "test", data_dir).path
    return None


def _examples(task: Asked, config: RunConfig, data_dir: Path | None) -> list[Example]:
    if task.kind == "file":
        return asked_rows(task.place, config)
    return task_examples(task.name, "full", limit=config.tasks.limit, data_dir=data_dir)
