"""Identities: which run, shared model or evaluation a configuration stands for. All are made here.

An id is a hash of what decides a result and of `VERSION`. Of a section (training, data, decoding …)
only values that differ from their defaults are hashed, so a new field with a default changes no id.
A changed default **value** would give old ids another meaning: all defaults stand in
``identity_defaults.yaml``, and a test refuses a change of one of them without a new `VERSION`.

What decides *samples* is in the key of an evaluation; what decides *scores* (scorer, metrics) is not:
scores are made again from stored samples, without a model.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from kdbench.harness.config import NOT_HASHED, RunConfig, TrainConfig
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import EvaluationRecord, IdentityRecord, ModelRef
from kdbench.harness.files.run_folder import RunFolder, runs_in
from kdbench.trainers.store.settings import exact

VERSION = 3
"""Raise it when a default changes its value, or when an id is made of other parts."""

Parts = Mapping[str, Any]
SEEDS = ("train.seed", "train.init_seed", "init_sft.seed")
"""What training seeds change; runs that differ in nothing else are rows of one method."""
DATA_NAMES = ("train", "dev", "text", "prompts")
"""Where data comes from; what it contains decides instead."""


class Contents(NamedTuple):
    """What a run's models and data contain, by fingerprint; never by name or path.

    ``teacher`` and ``student`` are `model_id`s, the student before any training.
    """

    teacher: str
    student: str
    train: str
    dev: str
    text: str
    prompts: str = ""


def digest(parts: Any) -> str:
    """sha256 of plain data (or a pydantic model's), in hex; keys in any order."""
    text = json.dumps(parts, sort_keys=True, default=_plain, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identity(parts: Parts) -> str:
    """Digest of what decides something, under this version of the rules."""
    return digest({"identity": VERSION, **parts})


def departures(section: BaseModel | None, leave: Iterable[str] = ()) -> dict[str, Any] | None:
    """The values of a section that differ from their defaults, as plain data; None for no section."""
    if section is None:
        return None
    return section.model_dump(mode="json", exclude_defaults=True, exclude=set(leave))


def training_parts(training: TrainConfig | None, tokenizer: str = "rouge") -> dict[str, Any] | None:
    """What decides a training: its settings, but for those that leave the result as it is.

    ``tokenizer`` is ROUGE-L's; it decides which step becomes the student, where that metric selects.
    """
    parts = departures(training, NOT_HASHED)
    if training is not None and training.select == "max:dev_rouge_l" and tokenizer != "rouge":
        parts = {**(parts or {}), "rouge_tokenizer": tokenizer}
    return parts


def model_id(model: ModelRef) -> str:
    """A model by content: weights, configuration, tokenizer and chat template."""
    return digest([model.fingerprint, model.tokenizer])


# -- runs and what they share --------------------------------------------------------------------


def run_parts(config: RunConfig, contents: Contents) -> dict[str, Any]:
    """What decides the trained student.

    Out, because the student is the same: names and paths of models and data, `NOT_HASHED`, device,
    log level, the number of processes and what they share (``parallel``). Out, because evaluations are
    added to a run and have keys of their own: tasks, protocol, generate. Out, because it is a label:
    suite, regime, tuning. Our own code's version is out too: a change of code stops a run as drift
    instead of silently starting another. A teacher store that is read is in only if it is not exact.

    Raises:
        ValueError: a precision is still ``auto``.
    """
    trainings = {"train": config.train, "init_sft": config.init_sft, "teacher": config.teacher_sft}
    kind = config.teacher.store
    rounded = {} if exact(kind) else {"teacher_store": kind}
    if any(t is not None and t.precision == "auto" for t in trainings.values()):
        raise ValueError("precision must be resolved before a run has an id")
    return {
        "contents": contents._asdict(),
        "template": config.pair.template,
        "data": departures(config.data, DATA_NAMES),
        "method": {
            "name": config.method.name,
            "source": config.method.fingerprint,
            "options": config.method.departures,
        },
        **{
            name: training_parts(training, config.tasks.rouge_tokenizer)
            for name, training in trainings.items()
        },
        **rounded,
        **engine_parts(config),
    }


def engine_parts(config: RunConfig) -> dict[str, Any]:
    """Who decodes in training, if that is not our own sampler: rounding makes other samples."""
    engine = config.generate.engine
    return {} if engine == "own" else {"engine": engine}


def run_id(parts: Parts) -> str:
    """The id in a run folder's name, 12 hex digits."""
    return identity(parts)[:12]


def settings_id(parts: Parts, student: str) -> str:
    """What runs of one row share: all of `run_parts` but the training seed and what follows from it.

    Args:
        parts: of `run_parts`.
        student: stands for the student before training whatever the seed: its `model_id`, or of a
            student that a seed makes the recipe.
    """
    flat = {k: v for k, v in flattened(parts).items() if k not in (*SEEDS, "contents.student")}
    return identity({**flat, "student": student})


def shared_id(
    config: RunConfig,
    contents: Contents,
    training: TrainConfig | None,
    start: ModelRef,
    **more: Any,
) -> str:
    """Id of something made of a model and the training data, shared between runs in the cache.

    Args:
        config: whose template and data settings hold.
        contents: of its data.
        training: what is done with ``start``; None: its answers are collected.
        start: the model.
        more: what else decides it.
    """
    return identity(
        {
            "model": model_id(start),
            "data": [contents.train, contents.dev, contents.text],
            "template": config.pair.template,
            "rows": departures(config.data, (*DATA_NAMES, "prompts_limit")),
            "training": training_parts(training, config.tasks.rouge_tokenizer),
            **more,
        }
    )


def store_id(
    config: RunConfig, contents: Contents, teacher: ModelRef, tokenizer: str, answers: str = ""
) -> str:
    """Id of what a teacher gives at the rows of the training data, or at its own answers to the prompts.

    Out, because what is stored is the same to rounding: device, micro-batches, the pair's student (its
    tokenizer is in), training seeds, and what is in none of the rows (development set, plain text).

    Args:
        config: whose template, data settings, lengths and precision hold, and kind of store.
        contents: of its data.
        teacher: as it teaches.
        tokenizer: fingerprint of the student's, in whose tokens rows are.
        answers: id of the teacher's answers; empty: the data set's.

    Raises:
        ValueError: the precision is still ``auto``.
    """
    training = config.train
    if training.precision == "auto":
        raise ValueError("precision must be resolved before a store has an id")
    elsewhere = (*DATA_NAMES, "prompts_limit", "dev_limit", "text_limit", "text_tokens")
    return identity(
        {
            "teacher": model_id(teacher),
            "tokenizer": tokenizer,
            "data": answers or contents.train,
            "template": config.pair.template,
            "rows": departures(config.data, elsewhere),
            "lengths": [training.max_prompt, training.max_length],
            "precision": training.precision,
            "kept": config.teacher.store,
        }
    )


# -- evaluations ---------------------------------------------------------------------------------

_PLACE = {"place"}
COMPANY = {"batch_size", "chunk"}
"""Fields of an evaluation that say what was decoded together: answers do not depend on it but by rounding."""
_COMPANY = COMPANY | {"engine"}
_MODEL = {"model", "tokenizer", "dtype"}


def evaluation_key(record: EvaluationRecord) -> str:
    """``<task>@<hash8>``: what decides the samples of one evaluation."""
    return f"{record.task}@{identity(departures(record, _PLACE) or {})[:8]}"


def column_id(record: EvaluationRecord, scorer: str) -> str:
    """What evaluations of several models must share to stand in one column, 8 hex digits.

    Batch company and engine are out, since answers do not depend on it but by rounding; so are the model and
    its arithmetic, which are what is compared.
    """
    shared = column_parts(record) if record.beside is None else record.beside
    return identity({**shared, "scorer": scorer})[:8]


def column_parts(record: EvaluationRecord) -> dict[str, Any]:
    """What decides the column of an evaluation, but for the scorer."""
    return departures(record, _PLACE | _COMPANY | _MODEL) or {}


# -- near misses ---------------------------------------------------------------------------------


def flattened(tree: Any, above: str = "") -> dict[str, Any]:
    """A tree's leaves by dotted key; empty mappings and None are left out."""
    if not isinstance(tree, Mapping):
        return {} if tree is None else {above: tree}
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flattened(value, f"{above}.{name}" if above else str(name))
    return found


def differences(mine: Parts, other: Parts) -> dict[str, tuple[Any, Any]]:
    """Leaves that differ: dotted key -> (mine, the other's); None stands for a default."""
    one, two = flattened(mine), flattened(other)
    keys = sorted(one.keys() | two.keys())
    return {key: (one.get(key), two.get(key)) for key in keys if one.get(key) != two.get(key)}


def near_miss(mine: Parts, other: IdentityRecord, name: str) -> str:
    """One line, if ``other`` (called ``name``) is missed by the version or by one field only."""
    found = differences(mine, other.parts)
    if other.version != VERSION:
        older = f"identity version {other.version}, now {VERSION}"
        return "" if found else f"{name} is the same but for kdbench's {older}: it is made again"
    if len(found) != 1 or set(found) & set(SEEDS):
        return ""
    key, (here, there) = next(iter(found.items()))
    return f"{name} differs in {key} only: {_said(there)} there, {_said(here)} here"


def near_runs(runs_dir: Path, parts: Parts) -> list[str]:
    """A line for each finished run that ``parts`` misses by the version or by one field only."""
    lines = []
    for run in runs_in(runs_dir):
        if run.identity.exists() and run.summary.exists():
            try:
                line = near_miss(parts, run.identity.read(), run.name)
            except InputError:  # not ours to report here
                continue
            lines += [line] if line else []
    return lines


def near_evaluation(record: EvaluationRecord, folder: RunFolder) -> str:
    """One line, if a finished evaluation of the same model misses ``record`` by one field only."""
    mine = departures(record, _PLACE) or {}
    for evaluation in folder.evaluations():
        if evaluation.task == record.task and evaluation.scored.marked():
            parts = departures(evaluation.record.read(), _PLACE) or {}
            if line := near_miss(
                mine, IdentityRecord(version=VERSION, parts=parts), evaluation.key
            ):
                return line
    return ""


def _said(value: Any) -> str:
    if value is None:
        return "the default"
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}…"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)
