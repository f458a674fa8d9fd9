"""What a run is: frozen, nested, small sections, and the id that follows from them.

`RunConfig` is complete and resolved: nothing in it refers to a suite file any more, so
``config.json`` of a run folder is enough to make the run again. How it is put together (defaults <
suite < the suite's section for the method < ``--set`` < flags) is in `kdbench.harness.resolve`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kdbench.trainers.optim import Precision, Recipe

Edition = Literal["mini", "mini-test", "full"]

# Fields of TrainConfig that leave the trained student as it is (to rounding): how much memory a
# micro-batch or remembered teacher outputs may take and how often a kill-safe state is written.
NOT_HASHED = frozenset({"micro_tokens", "save_every", "teacher_memory_gb"})


class Section(BaseModel):
    """Base of every section: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PairConfig(Section):
    """The two models and how a prompt is written for both."""

    teacher: str = Field(description="hub id, folder, .gguf file, or mini:teacher")
    student: str = Field(
        description="hub id, folder, .gguf file, prune:N, a model config.json to initialise at "
        "random, or mini:student (-small, -large, -larger)"
    )
    template: Literal["alpaca", "chat", "mini"] = Field(
        "alpaca", description="prompt template of teacher and student alike; chat: the tokenizer's"
    )
    trust_remote_code: bool = Field(False, description="always false; in older files")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.trust_remote_code:
            raise ValueError(
                "trust_remote_code: kdbench runs no code that comes with a model; choose one whose "
                "architecture is in transformers"
            )
        return self


class DataConfig(Section):
    """What students learn from."""

    train: str = Field(description="data set name (its train split) or a JSONL file")
    dev: str | None = Field(
        None, description="data set name (its dev split) or a JSONL file; none: the train name's"
    )
    text: str | None = Field(
        None,
        description="plain text for language-model losses: a name, .txt, .jsonl or folder",
    )
    boundary: Literal["apart", "joint"] = Field(
        "apart", description="responses tokenised on their own, or (MiniLLM) with the prompt"
    )
    limit: int | None = Field(None, gt=0, description="use the first N training rows")
    dev_limit: int | None = Field(None, gt=0, description="use the first N development rows")
    text_limit: int | None = Field(None, gt=0, description="use the first N plain-text documents")
    text_tokens: int | None = Field(
        None, gt=1, description="tokens of a plain-text row; none: train.max_length"
    )


class TrainConfig(Recipe):
    """How any method trains, and from what; also how the teacher is fine-tuned and the init is made."""

    init_seed: int | None = Field(None, ge=0, description="seed of the init, if it is another")
    init: Literal["pretrained", "sft", "sft-full"] = Field(
        "sft", description="student before the method: as it is, short SFT, or the full SFT run"
    )

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is trained, as plain data: all but `NOT_HASHED`."""
        return self.model_dump(mode="json", exclude=set(NOT_HASHED))

    @property
    def seed_of_init(self) -> int:
        """Seed of the init this training starts from."""
        return self.seed if self.init_seed is None else self.init_seed


class GenerateConfig(Section):
    """How answers are sampled for evaluation (training samples at temperature 1, top_p 1)."""

    seeds: tuple[int, ...] = (10, 20, 30, 40, 50)
    batch_size: int = Field(32, gt=0, description="rows decoded together")
    chunk: int = Field(64, gt=0, description="prompts whose rows refill each other; unit of resume")
    dtype: Precision = Field("auto", description="arithmetic of decoding; auto: the model's")
    max_new_tokens: int = Field(256, gt=0)
    temperature: float = Field(1.0, ge=0, description="0: greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    no_repeat_ngram: int | None = Field(None, ge=0, description="none: as the protocol says")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must be distinct and at least one")
        return self


class TasksConfig(Section):
    """What students are asked."""

    names: tuple[str, ...] = ("dolly", "selfinst", "vicuna", "sni", "unni")
    edition: Edition = Field("full", description="the generated world's tasks, or real data")
    protocol: Literal["minillm-compat", "strict"] = "minillm-compat"
    limit: int | None = Field(None, gt=0, description="first N prompts; an edition of its own")
    include_path: str | None = Field(None, description="folder of further lm-eval task files")
    probes: tuple[str, ...] = Field((), description="exposure, calibration, loss, truth, self_bleu")
    probe_samples: int | None = Field(
        None, gt=0, description="answers a prompt for probes; none: exposure as the protocol says"
    )


class MethodConfig(Section):
    """Which method, and its own fields as its ``Config`` class resolved them."""

    name: str
    source: str = Field("", description="module:Class, entry point or file it was loaded from")
    fingerprint: str = Field("", description="sha256 of a plug-in's file; empty for our own")
    options: dict[str, Any] = {}


class TuningConfig(Section):
    """What was done to find a method's settings; said by hand, checked by the comparison rules."""

    trials: int = Field(gt=0, description="settings tried on the development set, the kept one too")
    note: str = Field("", description="what was tried")


class RunConfig(Section):
    """One (suite, method, training seed), resolved."""

    suite: str
    regime: Literal["matched", "paper"] = "paper"
    pair: PairConfig
    data: DataConfig
    method: MethodConfig
    train: TrainConfig
    init_sft: TrainConfig | None = Field(
        None, description="training of the init this method starts from; none: it starts as it is"
    )
    teacher_sft: TrainConfig | None = Field(
        None, description="fine-tuning of the teacher on the training set; none: used as it is"
    )
    generate: GenerateConfig = GenerateConfig()
    tasks: TasksConfig = TasksConfig()
    tuning: TuningConfig | None = Field(None, description="none: not stated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A verb's call of the runner: what to run, and the circumstances that do not change a result.

    Args:
        config: the run, resolved.
        runs_dir: folder of run folders.
        data_dir: folder of real data sets; None: the hub.
        cache_dir: folder of what runs share (mini teacher, inits, teacher answers).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
        json_output: print one JSON document instead of tables and progress.
        quiet: no progress lines.
        accept_drift: continue although code or data changed, and record it.
        model: for ``eval``: hub id, folder, ``teacher``, ``init`` or ``truth``.
        teacher: for ``eval``: what exposure bias is measured against, named like ``model``.
        run: for ``eval`` of a trained run: its folder, instead of ``model``.
        argv: the command line as typed.
    """

    config: RunConfig
    runs_dir: Path
    data_dir: Path | None = None
    cache_dir: Path = Path()
    device: str = "auto"
    json_output: bool = False
    quiet: bool = False
    accept_drift: bool = False
    model: str | None = None
    teacher: str | None = None
    run: Path | None = None
    argv: tuple[str, ...] = field(default=())


def run_id(config: RunConfig, fingerprints: Mapping[str, str]) -> str:
    """The first 12 hex digits of the sha256 of what decides the trained student.

    In: contents of teacher, student and data files; template; rows used and how responses are
    tokenised; the method, its options
    and, for a plug-in, its source; training settings of the method, of the init it starts from and
    of the teacher's fine-tuning; training seed; precision as resolved.

    Out, because the student is the same: names and paths of models and data (contents decide),
    the settings `NOT_HASHED`, device, log level. Out, because evaluations are added to a run and
    have keys of their own: tasks, protocol, generate. Out, because it is a label: suite, regime and
    tuning (what they set is in). Our own code's version is out too: a change of code stops a run as
    drift instead of silently starting another.

    Args:
        config: resolved, ``precision`` included.
        fingerprints: content hashes of ``teacher``, ``student``, ``train``, ``dev``, ``text``.

    Raises:
        ValueError: precision is still ``auto``, or a fingerprint is missing.
    """
    trainings = {"train": config.train, "init_sft": config.init_sft, "teacher": config.teacher_sft}
    if any(t is not None and t.precision == "auto" for t in trainings.values()):
        raise ValueError("precision must be resolved before a run has an id")
    needed = {"teacher", "student", "train"} - fingerprints.keys()
    if needed:
        raise ValueError(f"no fingerprint of {', '.join(sorted(needed))}")
    decides = {
        "fingerprints": dict(fingerprints),
        "template": config.pair.template,
        "rows": config.data.model_dump(mode="json", exclude={"train", "dev", "text"}),
        "method": config.method.model_dump(mode="json", exclude={"source"}),
        **{name: training and training.identity() for name, training in trainings.items()},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def run_name(config: RunConfig, identifier: str) -> str:
    """Name of the run folder: ``<method>-<student>-<id12>``."""
    return f"{slug(config.method.name)}-{slug(config.pair.student)}-{identifier}"


def slug(text: str) -> str:
    """The last part of a model name or path, fit for a file name (``mini:student`` whole)."""
    last = text.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9.]+", "-", last).strip("-.").lower() or "model"


def with_precision(config: RunConfig, precision: Precision) -> RunConfig:
    """The same run with every ``auto`` precision of its trainings resolved to ``precision``."""

    def resolved(training: TrainConfig | None) -> TrainConfig | None:
        if training is None:
            return None
        arithmetic = precision if training.precision == "auto" else training.precision
        sampling = training.sample_precision
        return training.model_copy(
            update={
                "precision": arithmetic,
                "sample_precision": arithmetic if sampling == "auto" else sampling,
            }
        )

    return config.model_copy(
        update={
            "train": resolved(config.train),
            "init_sft": resolved(config.init_sft),
            "teacher_sft": resolved(config.teacher_sft),
        }
    )
