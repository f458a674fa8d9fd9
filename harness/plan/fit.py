"""The change that makes a run fit: of all that would, the one that changes least."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from kdbench.harness.config import RunConfig
from kdbench.harness.plan.hardware import Machine, Scaling
from kdbench.harness.plan.planning import Models, Plan, plan
from kdbench.harness.plan.work import Work

LORA_RANK = 16
FEWEST_ROWS = 8
"""Answers written together, at least."""


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
    """

    said: str
    apply: Callable[[Asked, Machine], Asked | None]
    same: bool = True


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


def _tuned_teacher(asked: Asked, machine: Machine) -> Asked | None:
    if asked.config.teacher_sft is None:
        return None
    return replace(asked, config=asked.config.model_copy(update={"teacher_sft": None}))


def _lora(asked: Asked, machine: Machine) -> Asked | None:
    if asked.scaling.lora_rank:
        return None
    return replace(asked, scaling=replace(asked.scaling, lora_rank=LORA_RANK))


CHANGES = (
    Change("train.micro_tokens={length}", _smaller_pass),
    Change("parallel.checkpoint_activations=true", _checkpointing),
    Change("parallel.shard=fsdp2", _sharding),
    Change("parallel.teacher=sharded", _teacher),
    Change(f"generate.batch_size={FEWEST_ROWS}", _fewer_rows),
    Change(
        "teacher_sft=null with a teacher that is fine-tuned already", _tuned_teacher, same=False
    ),
    Change(f"student.lora.r={LORA_RANK}", _lora, same=False),
)
"""In the order in which they are preferred."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What makes a run fit: the settings, and the plan with them."""

    settings: tuple[str, ...]
    plan: Plan
    same: bool


def remedy(
    config: RunConfig,
    models: Models,
    work: Work,
    machine: Machine,
    scaling: Scaling,
    *,
    rows: int | None = None,
) -> Remedy | None:
    """The fewest changes with which a run fits; None if not even all of them do.

    Changes that leave the student as it is are preferred to fewer ones that make another.
    """
    start = Asked(config, scaling)
    for changes in _subsets():
        asked: Asked | None = start
        for change in changes:
            asked = None if asked is None else change.apply(asked, machine)
        if asked is None:
            continue
        made = plan(asked.config, models, work, machine, asked.scaling, rows=rows)
        if made.fits:
            said = tuple(c.said.format(length=config.train.max_length) for c in changes)
            return Remedy(said, made, all(change.same for change in changes))
    return None


def _subsets() -> Iterator[tuple[Change, ...]]:
    same = [change for change in CHANGES if change.same]
    for count in range(1, len(same) + 1):
        yield from combinations(same, count)
    for count in range(1, len(CHANGES) + 1):
        yield from (s for s in combinations(CHANGES, count) if not all(c.same for c in s))


def fewest_cards(
    config: RunConfig, models: Models, work: Work, machine: Machine, *, rows: int | None = None
) -> int | None:
    """Cards of this kind on which the run fits sharded, with activation checkpointing; up to 64."""
    spread = Scaling(shard="fsdp2", teacher="sharded", checkpoint_activations=True)
    for count in (1, 2, 4, 8, 16, 32, 64):
        if plan(config, models, work, replace(machine, count=count), spread, rows=rows).fits:
            return count
    return None
