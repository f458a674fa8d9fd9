"""What a run is: frozen, nested, small sections.

`RunConfig` is complete and resolved: nothing in it refers to a suite file any more, so
``config.json`` of a run folder is enough to make the run again. How it is put together (defaults <
suite < the suite's section for the method < ``--set`` < flags) is in `kdbench.harness.resolve`.
"""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from kdbench.harness.data.chat import DATE, BeginToken
from kdbench.harness.data.parts import Turns, columns_given
from kdbench.harness.data.places import is_place, stem
from kdbench.harness.data.templates import PromptFormat
from kdbench.harness.endpoints import EndpointSettings
from kdbench.harness.settings import EngineName, Settings
from kdbench.trainers.optim import MANY, Precision, Recipe, Seed
from kdbench.trainers.parallel.settings import Parallel
from kdbench.trainers.store.settings import ABOUT, PATTERN

if TYPE_CHECKING:
    from kdbench.harness.data.understood import Reading

Edition = Literal["mini-2", "mini-test", "full"]
Template = Literal["alpaca", "chat", "mini", "none"]

COLDEST = 1e-4
"""Temperature below which logits overflow."""

# Fields of TrainConfig that leave the trained student as it is (to rounding): how much memory a
# micro-batch or remembered teacher outputs may take and how often a kill-safe state is written.
NOT_HASHED = frozenset({"micro_tokens", "save_every", "teacher_memory_gb"})
# Settings in which runs trained as their suite says may differ.
FREE = NOT_HASHED | {"seed", "init_seed"}


class Section(Settings):
    """Base of every section."""


class TeacherEndpoint(EndpointSettings):
    """How a teacher behind an endpoint is asked."""

    max_cost: float | None = Field(
        None, gt=0, description="never to be crossed, in the currency of its prices"
    )

    @model_validator(mode="after")
    def _check_priced(self) -> Self:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs prices (input, output and date; of a million tokens)")
        return self


class PairConfig(Section):
    """The two models and how a prompt is written for both."""

    teacher: str = Field(
        description="hub id, folder, .gguf file, mini-2:teacher, or an OpenAI-compatible endpoint as "
        "https://host/v1#model"
    )
    student: str = Field(
        description="hub id, folder, .gguf file, prune:N, a model config.json to initialise at "
        "random, or mini-2:student (-small, -large, -larger, -gpt2, -qwen3)"
    )
    template: Template = Field(
        "alpaca",
        description="prompt template of teacher and student alike; chat: the tokenizer's; none: the "
        "instruction as it is",
    )


class TeacherConfig(Section):
    """How training has the teacher at hand; an exact way decides no result (to rounding)."""

    store: str = Field("none", pattern=PATTERN, description=ABOUT)


ColumnNames = Annotated[dict[str, str], BeforeValidator(columns_given)]
"""Part of a row -> column, also as the text ``prompt=a,response=b``."""


class DataConfig(Section):
    """What students learn from."""

    train: str = Field(
        description="data set name (its train split), a file or folder of rows, or name:config:split of "
        "the hub"
    )
    dev: str | None = Field(
        None,
        description="the same, for its dev split; none: that of train, or of a file without one every "
        "tenth row of it, held out",
    )
    columns: ColumnNames = Field(
        {}, description="which column is what, as prompt=a,response=b; none: by convention"
    )
    turns: Turns = Field(
        "every", description="which answers of a conversation are learnt: every one, or the last"
    )
    unique: bool = Field(False, description="drop rows that are equal to an earlier one")
    text: str | None = Field(
        None,
        description="plain text for language-model losses: a name, .txt, .jsonl or folder",
    )
    prompts: str | None = Field(
        None,
        description="prompts that methods ask the teacher and the student, without gold answers: named "
        "as train is; none: those of train",
    )
    boundary: Literal["apart", "joint"] = Field(
        "apart", description="responses tokenised on their own, or (MiniLLM) with the prompt"
    )
    limit: int | None = Field(None, gt=0, description="use the first N training rows")
    prompts_limit: int | None = Field(None, gt=0, description="use the first N of prompts")
    dev_limit: int | None = Field(None, gt=0, description="use the first N development rows")
    text_limit: int | None = Field(None, gt=0, description="use the first N plain-text documents")
    text_tokens: int | None = Field(
        None, gt=1, description="tokens of a plain-text row; none: train.max_length"
    )
    template_date: str = Field(
        DATE, description="the date that chat templates are told instead of today's"
    )
    template_arguments: dict[str, Any] = Field(
        {}, description="what chat templates are given by name, as {enable_thinking: false}"
    )
    begin_token: BeginToken = Field(
        "auto",
        description="whether prompts start with the begin token, never twice; auto: as the chat "
        "template writes it, of other templates (and of lm-eval's tasks) as the tokenizer adds it",
    )

    def form(self, template: str) -> PromptFormat:
        """How rows become prompts by a template."""
        return PromptFormat(template, self.template_date, self.template_arguments, self.begin_token)

    def reading(self, *, answers: bool = True, fallback: bool = False) -> "Reading":
        """How its rows are read; arguments as of `Reading`."""
        from kdbench.harness.data.understood import Reading  # which reads tables

        own = self.model_dump(include={"columns", "turns", "unique"})
        return Reading(**own, answers=answers, fallback=fallback)

    @field_validator("template_date", mode="before")
    @classmethod
    def _is_date(cls, date: Any) -> str:
        # YAML has dates of its own
        day = date if isinstance(date, datetime.date) else datetime.date.fromisoformat(str(date))
        return f"{day:%Y-%m-%d}"


class TrainConfig(Recipe):
    """How any method trains, and from what; also how the teacher is fine-tuned and the init is made."""

    init_seed: Seed | None = Field(None, ge=0, description="seed of the init, if it is another")
    init: Literal["pretrained", "sft", "sft-full"] = Field(
        "sft", description="student before the method: as it is, short SFT, or the full SFT run"
    )

    @property
    def seed_of_init(self) -> int:
        """Seed of the init this training starts from."""
        return self.seed if self.init_seed is None else self.init_seed


class GenerateConfig(Section):
    """How answers are sampled for evaluation (training samples at temperature 1, top_p 1)."""

    seeds: tuple[Seed, ...] = (10, 20, 30, 40, 50)
    batch_size: int = Field(32, gt=0, le=MANY, description="rows decoded together")
    chunk: int = Field(
        64, gt=0, le=MANY, description="prompts whose rows refill each other; unit of resume"
    )
    dtype: Precision = Field("auto", description="arithmetic of decoding; auto: the model's")
    engine: EngineName = Field(
        "own", description="who decodes, in evaluation and in training: our sampler, or vllm"
    )
    max_new_tokens: int = Field(256, gt=0, le=MANY)
    temperature: float = Field(1.0, ge=0, description="0: greedy")
    greedy: bool = Field(
        False, description="answer greedily as well, as an evaluation and columns of its own"
    )
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    no_repeat_ngram: int | None = Field(None, ge=0, description="none: as the protocol says")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must be distinct and at least one")
        if 0 < self.temperature < COLDEST:
            raise ValueError(f"temperature must be 0 (greedy) or at least {COLDEST:g}")
        return self

    @property
    def ways(self) -> "tuple[GenerateConfig, ...]":
        """As configured, and greedily if that is asked as well.

        A greedy answer is the same for every seed, so one is drawn.
        """
        if not self.greedy or not self.temperature:
            return (self,)
        greedily = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "seeds": self.seeds[:1]}
        return (self, self.model_copy(update=greedily))


class TasksConfig(Section):
    """What students are asked."""

    names: tuple[str, ...] = ("dolly", "selfinst", "vicuna", "sni", "unni")
    edition: Edition = Field("full", description="the generated world's tasks, or real data")
    protocol: Literal["minillm-compat", "strict"] = "minillm-compat"
    template: Template | None = Field(
        None, description="prompt template of tasks that are answered; none: the pair's"
    )
    limit: int | None = Field(None, gt=0, description="first N prompts; an edition of its own")
    rouge_tokenizer: Literal["rouge", "unicode"] = Field(
        "rouge", description="what a word of ROUGE-L is: the papers' (a-z, 0-9), or of every script"
    )
    columns: ColumnNames = Field(
        {}, description="which column of files is what; none: as data.columns, or by convention"
    )
    include_path: str | None = Field(None, description="folder of further lm-eval task files")
    probes: tuple[str, ...] = Field((), description="exposure, calibration, loss, truth, self_bleu")
    probe_samples: int | None = Field(
        None, gt=0, description="answers a prompt for probes; none: exposure as the protocol says"
    )


class MethodConfig(Section):
    """Which method, and its own fields as its ``Config`` class resolved them."""

    name: str
    source: str = Field(
        "", description="module:Class or file it was loaded from; for people, never loaded again"
    )
    fingerprint: str = Field("", description="sha256 of a plug-in's file; empty for our own")
    options: dict[str, Any] = Field({}, description="all of its fields, resolved")
    departures: dict[str, Any] = Field({}, description="those that differ from their defaults")


class TuningConfig(Section):
    """What was done to find a method's settings; said by hand, checked by the comparison rules."""

    trials: int = Field(gt=0, description="settings tried on the development set, the kept one too")
    note: str = Field("", description="what was tried")
    by: Literal["hand", "search"] = Field("hand", description="search: of kdbench tune")
    share: float | None = Field(
        None, gt=0, le=1, description="of the budget that each trial of a search had"
    )
    finalists: int = Field(
        0, ge=0, description="of them trained at the whole budget, the best of which is kept"
    )


class RunConfig(Section):
    """One (suite, method, training seed), resolved."""

    suite: str
    regime: Literal["matched", "paper"] = "paper"
    pair: PairConfig
    teacher: TeacherConfig = TeacherConfig()
    endpoint: TeacherEndpoint = TeacherEndpoint()
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
    parallel: Parallel = Parallel()

    @property
    def tuned(self) -> str:
        """How the method's settings were found, as rows say it."""
        if self.tuning is None or self.tuning.by == "hand":
            return "paper" if self.regime == "paper" else "default"
        trials = self.tuning.trials
        return f"tuned ({trials} trial{'' if trials == 1 else 's'})"

    @property
    def task_template(self) -> Template:
        """Prompt template of tasks that are answered."""
        return self.tasks.template or self.pair.template

    @property
    def training_format(self) -> PromptFormat:
        """How training rows become prompts."""
        return self.data.form(self.pair.template)

    @property
    def task_format(self) -> PromptFormat:
        """How the rows of tasks become prompts."""
        return self.data.form(self.task_template)

    @property
    def answer_precision(self) -> Precision:
        """Arithmetic of answering tasks, once that of the training is resolved."""
        asked = self.generate.dtype
        return self.train.precision if asked == "auto" else asked


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
        accept_drift: continue although code, init or teacher changed, and record it.
        model: for ``eval``: hub id, folder, ``teacher``, ``init`` or ``truth``.
        teacher: for ``eval``: what exposure bias is measured against, named like ``model``.
        run: for ``eval`` of a trained run: its folder, instead of ``model``.
        argv: the command line as typed.
        track: trackers that are told of the training, comma-separated; None: nobody is.
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
    track: str | None = None


def run_name(config: RunConfig, identifier: str) -> str:
    """Name of the run folder: ``<method>-<student>-<id12>``."""
    return f"{slug(config.method.name)}-{slug(config.pair.student)}-{identifier}"


def slug(text: str) -> str:
    """The last part of a model name or path, fit for a file name (``mini-2:student`` whole)."""
    last = text.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9.]+", "-", last).strip("-.").lower() or "model"


def file_task(text: str) -> tuple[str, str] | None:
    """Name and place of a task that is rows of a user's (``own.csv``, ``name=user/set``); else None."""
    name, sign, place = text.partition("=")
    if sign and place and "/" not in name:
        return name, place
    return (slug(stem(text)), text) if is_place(text) else None


def unstated(stored: Mapping[str, Any], asked: RunConfig, *, given: bool) -> bool:
    """Whether a search found the settings of a run whose stored configuration does not say so.

    Args:
        stored: the configuration of the run.
        asked: what is asked for now.
        given: whether its word on the search is the command's, as that of the search itself is. That of a
            suite, which knows of an earlier search only, replaces no other search's.
    """
    if asked.tuning is None or asked.tuning.by == "hand":
        return False
    said = {"finalists": 0} | (stored.get("tuning") or {})
    if said.get("by") == "search" and not given:
        return False
    names = ("by", "trials", "share", "finalists")
    return any(said.get(name) != getattr(asked.tuning, name) for name in names)


def with_precision(config: RunConfig, precision: Precision) -> RunConfig:
    """The same run with every ``auto`` precision of its trainings resolved to ``precision``."""
    resolved = {}
    for name in ("train", "init_sft", "teacher_sft"):
        training: TrainConfig | None = getattr(config, name)
        if training is not None:
            found, drawn = training.precision, training.sample_precision
            found = precision if found == "auto" else found
            changed = {"precision": found, "sample_precision": found if drawn == "auto" else drawn}
            resolved[name] = training.model_copy(update=changed)
    return config.model_copy(update=resolved)
