"""The change that makes a run fit: of all that would, the one that changes least."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

from kdbench.harness.config import RunConfig, TrainConfig
from kdbench.harness.plan.hardware import Machine, Scaling
from kdbench.harness.plan.planning import Models, Plan, plan
from kdbench.harness.plan.work import Work
from kdbench.trainers.lora.settings import Lora

LORA_RANK = 16
FEWEST_ROWS = 8
"""Answers written together, at least."""


class Run(NamedTuple):
    """A run to plan: its configuration, its pair, and what a step of its method does."""

    config: RunConfig
    models: Models
    work: Work


@dataclass(frozen=True, slots=True)
class Asked:
    """What may be changed."""

    config: RunConfig
    scaling: Scaling


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that needs less memory.

    Attributes:
        said: as one would set it.
        apply: gives what is asked with it; None where it changes nothing here.
        same: the student stays the same to rounding.
        aside: what else is to be done.
    """

    said: str
    apply: Callable[[Asked, Machine], Asked | None]
    same: bool = True
    aside: str = ""


def _smaller_pass(asked: Asked, machine: Machine) -> Asked | None:
    config = asked.config
    least = config.train.max_length
    if config.train.micro_tokens <= least:
        return None
    changed = {}
    for name in ("train", "init_sft", "teacher_sft"):
        training = getattr(config, name)
        if training is not None:
            changed[name] = training.model_copy(update={"micro_tokens": training.max_length})
    return replace(asked, config=config.model_copy(update=changed))


def _checkpointing(asked: Asked, machine: Machine) -> Asked | None:
    if asked.scaling.checkpoint_activations:
        return None
    return replace(asked, scaling=replace(asked.scaling, checkpoint_activations=True))


def _sharding(asked: Asked, machine: Machine) -> Asked | None:
    if machine.count == 1 or asked.scaling.shard == "fsdp2":
        return None
    return replace(asked, scaling=replace(asked.scaling, shard="fsdp2"))


def _teacher(asked: Asked, machine: Machine) -> Asked | None:
    if machine.count == 1 or asked.scaling.teacher == "sharded":
        return None
    return replace(asked, scaling=replace(asked.scaling, teacher="sharded"))


def _fewer_rows(asked: Asked, machine: Machine) -> Asked | None:
    generate = asked.config.generate
    if generate.batch_size <= FEWEST_ROWS:
        return None
    fewer = generate.model_copy(update={"batch_size": FEWEST_ROWS})
    return replace(asked, config=asked.config.model_copy(update={"generate": fewer}))


def _own_sampler(asked: Asked, machine: Machine) -> Asked | None:
    generate = asked.config.generate
    if generate.engine == "own":
        return None
    ours = generate.model_copy(update={"engine": "own"})
    return replace(asked, config=asked.config.model_copy(update={"generate": ours}))


def _tuned_teacher(asked: Asked, machine: Machine) -> Asked | None:
    if asked.config.teacher_sft is None:
        return None
    return replace(asked, config=asked.config.model_copy(update={"teacher_sft": None}))


def _lora(asked: Asked, machine: Machine) -> Asked | None:
    config = with_lora(asked.config, LORA_RANK)
    return None if config == asked.config else replace(asked, config=config)


def with_lora(config: RunConfig, rank: int) -> RunConfig:
    """The same run with adapters of a rank in each of its trainings that trains whole models."""
    changed = {}
    for name in ("train", "init_sft", "teacher_sft"):
        training: TrainConfig | None = getattr(config, name)
        if training is not None and training.lora is None:
            changed[name] = training.model_copy(update={"lora": Lora(r=rank)})
    return config.model_copy(update=changed)


CHANGES = (
    Change("train.micro_tokens={length}", _smaller_pass),
    Change("parallel.checkpoint_activations=true", _checkpointing),
    Change("parallel.shard=fsdp2", _sharding),
    Change("parallel.teacher=sharded", _teacher),
    Change(f"generate.batch_size={FEWEST_ROWS}", _fewer_rows),
    Change("generate.engine=own", _own_sampler),
    Change(
        "teacher_sft=null",
        _tuned_teacher,
        same=False,
        aside="give a teacher that is fine-tuned already",
    ),
    Change(
        f"train.lora.r={LORA_RANK}",
        _lora,
        same=False,
        aside="init_sft.lora.r and teacher_sft.lora.r alike",
    ),
)
"""In the order in which they are preferred."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What makes runs fit: the settings, the plan of the run that needs most with them.

    ``same`` says whether students stay as they are; ``aside`` what else is to be done.
    """

    settings: tuple[str, ...]
    plan: Plan
    same: bool
    aside: str


def remedy(
    runs: Sequence[Run], machine: Machine, scaling: Scaling, *, rows: int | None = None
) -> Remedy | None:
    """The fewest changes with which all of these runs fit; None if not even all changes do.

    Changes that leave the student as it is are preferred to fewer ones that make another.
    """
    for changes in _subsets():
        found = [_changed(Asked(run.config, scaling), changes, machine) for run in runs]
        asked = [each for each in found if each is not None]
        if len(asked) < len(runs):
            continue
        made = [
            plan(each.config, run.models, run.work, machine, each.scaling, rows=rows)
            for each, run in zip(asked, runs, strict=True)
        ]
        if all(each.fits for each in made):
            length = runs[0].config.train.max_length
            said = tuple(change.said.format(length=length) for change in changes)
            aside = "; ".join(change.aside for change in changes if change.aside)
            most = max(made, key=lambda each: each.peak)
            return Remedy(said, most, all(change.same for change in changes), aside)
    return None


def _changed(asked: Asked, changes: Iterable[Change], machine: Machine) -> Asked | None:
    found: Asked | None = asked
    for change in changes:
        found = None if found is None else change.apply(found, machine)
    return found


def _subsets() -> Iterator[tuple[Change, ...]]:
    same = [change for change in CHANGES if change.same]
    for count in range(1, len(same) + 1):
        yield from combinations(same, count)
    for count in range(1, len(CHANGES) + 1):
        yield from (s for s in combinations(CHANGES, count) if not all(c.same for c in s))


def fewest_cards(run: Run, machine: Machine, *, rows: int | None = None) -> int | None:
    """Cards of this kind on which a run fits sharded, with activation checkpointing; up to 64."""
    spread = Scaling(shard="fsdp2", teacher="sharded", checkpoint_activations=True)
    for count in (1, 2, 4, 8, 16, 32, 64):
        cards = replace(machine, count=count)
        if plan(run.config, run.models, run.work, cards, spread, rows=rows).fits:
            return count
    return None
