"""The interface between a distillation method and the one training loop.

A method answers two questions: *which sequences does this optimiser step train on* (``window``; if it
says nothing, the step's training examples) and *what are the summed loss and terms of some of them*
(``loss``, computed with a `kdbench.trainers.micro_batch.MicroBatch`). It never sees ranks, padding,
gradient accumulation or division by a count: the loop owns all of that, so no method can get it
wrong.

To add a method, write one file with a subclass of :class:`Method`; ``kdbench new-method`` and
CONTRIBUTING show how. Everything it needs to import is named here, responses other than the data
set's are in `kdbench.trainers.sources`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch

from kdbench.harness.errors import InputError
from kdbench.harness.settings import Settings
from kdbench.trainers.batching import Stream as Stream
from kdbench.trainers.micro_batch import MicroBatch as MicroBatch
from kdbench.trainers.micro_batch import Sums as Sums
from kdbench.trainers.teacher import TeacherSide
from kdbench.trainers.types import Answer, Decoding, Sequence


class MethodConfig(Settings):
    """Base of each method's own fields (at most 8)."""


Responses = Literal["data", "teacher", "teacher-greedy"]
"""Whose responses a batch holds: the data set's, or the teacher's, sampled at temperature 1 or greedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One axis of a search space: a range or choices.

    Attributes:
        name: a setting, ``train.lr`` or ``method.<field>``.
        low, high: ends of the range.
        log: drawn evenly in the logarithm.
        relative: the ends are factors of what the suite says.
        choices: values instead of a range.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    relative: bool = False
    choices: tuple[str | float | bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What ``kdbench ls methods`` prints. ``cost`` is relative to SFT's optimiser step.

    ``policy``: trained on responses of others (off), of the student (on), or of both. ``space``: up
    to three fields of the method's own that ``kdbench tune`` searches beside the rate.
    """

    title: str
    paper: str
    variant: str = "paper"
    cost: str
    policy: Literal["off", "on", "mixed"] = "off"
    teacher_logits: bool = False
    teacher_samples: bool = False
    student_samples: bool = False
    plain_text: bool = False
    same_tokenizer: bool = True
    space: tuple[Dimension, ...] = ()

    def __post_init__(self) -> None:
        """Raises TypeError for a value of another kind: cards are written by hand."""
        for each in fields(self):
            value = getattr(self, each.name)
            kind = bool if each.type is bool else tuple if each.name == "space" else str
            if not isinstance(value, kind):
                raise TypeError(f"{each.name} of a card must be a {kind.__name__}, got {value!r}")
        if not all(isinstance(each, Dimension) for each in self.space):
            raise TypeError(f"space of a card must hold Dimensions, got {self.space!r}")
        if self.policy not in ("off", "on", "mixed"):
            raise TypeError(f"policy of a card must be off, on or mixed, got {self.policy!r}")


@dataclass(slots=True)
class Context:
    """What a method may use. Everything here is the same on every rank.

    Attributes:
        train: training examples in file order, with the data set's responses.
        prompts: the prompts that teacher and student are asked; those of ``train`` if there are no
            others. Their responses may be empty.
        text: plain-text rows for the language-modelling loss, or empty.
        batch_size: sequences of an optimiser step (global).
        seed: training seed.
        decoding: how responses are sampled during training (seed replaced per use).
        progress: fraction of the training budget already used, in [0, 1).
        answer: samples responses of the student (or a mixture with the teacher), in prompt order.
        teacher_answers: the teacher's answers to ``prompts`` by index, and whether greedy; made when
            first asked for (what is asked for together is made together), shared and cached.
        lookahead: optimiser steps whose prompts `teacher_batch` asks for together.
        score: log-probabilities of responses under ("student" | "teacher"), no gradient.
        meter: counts tokens by kind: "sampled", "teacher" …
        taught: training examples whose teacher answer was asked for so far; checkpointed.
        copy_student: the student as it is now, or with weights it had, frozen, for `MicroBatch.sum`;
            its ``weights()`` are such weights.
        keep: announces rows whose teacher outputs will be needed several times (see
            `kdbench.trainers.teacher.TeacherMemory.keep`).
        twin: a sequence in the teacher's tokens (see `kdbench.trainers.alignment`); None if the two
            share a tokenizer.
    """

    train: Seq[Sequence]
    text: Seq[Sequence]
    batch_size: int
    seed: int
    decoding: Decoding
    answer: Callable[..., list[Answer]]
    teacher_answers: Callable[..., list[Sequence]]
    score: Callable[[Seq[Sequence], str], list[torch.Tensor]]
    copy_student: Callable[..., TeacherSide]
    lookahead: int = 1
    progress: float = 0.0
    meter: Counter[str] = field(default_factory=Counter)
    taught: set[int] = field(default_factory=set)
    keep: Callable[[str, Seq[Seq[Sequence]]], None] = lambda name, blocks: None
    twin: Callable[[Sequence], Sequence] | None = None
    prompts: Seq[Sequence] = ()

    def __post_init__(self) -> None:
        self.prompts = self.prompts or self.train

    def indices(
        self, step: int, *, size: int | None = None, salt: int = 0, n: int = 0
    ) -> list[int]:
        """Indexes of the training examples of optimiser step ``step`` (0-based).

        A fresh permutation each epoch; a pure function of (seed, salt, step), so that the order is the
        same for every method and needs no state to resume. ``n`` is the population (default: train).
        """
        size, n = size or self.batch_size, n or len(self.train)
        return indices_of(step, size=size, n=n, seed=self.seed, salt=salt)

    def batch(self, step: int) -> list[Sequence]:
        """Training examples of optimiser step ``step``, with the data set's responses."""
        return [self.train[i] for i in self.indices(step)]

    def paired_batch(self, step: int) -> list[Sequence]:
        """`batch`, with its text also in the teacher's tokens where those are others."""
        batch = self.batch(step)
        return [self.twin(s) for s in batch] if self.twin else batch

    def asked(self, step: int, *, size: int | None = None) -> list[int]:
        """Indexes of the prompts that are asked at optimiser step ``step``, as `indices`."""
        return self.indices(step, size=size, n=len(self.prompts))

    def prompt_batch(self, step: int) -> list[Sequence]:
        """Prompts of optimiser step ``step``, to be answered by the student."""
        return [self.prompts[i] for i in self.asked(step)]

    def responses(self, step: int, kind: Responses) -> list[Sequence]:
        """The batch of optimiser step ``step`` with responses of a kind."""
        if kind == "data":
            return self.batch(step)
        return self.teacher_batch(step, greedy=kind == "teacher-greedy")

    def teacher_batch(self, step: int, *, greedy: bool = False) -> list[Sequence]:
        """Prompts of optimiser step ``step`` with the teacher's answers."""
        first = step - step % self.lookahead
        ahead = [i for s in range(first, first + self.lookahead) for i in self.asked(s)]
        found = self.teacher_answers(ahead, greedy=greedy)
        place = (step - first) * self.batch_size
        return found[place : place + self.batch_size]

    def text_batch(self, step: int) -> list[Sequence]:
        """As many plain-text rows as examples; empty if the suite has none."""
        if not self.text:
            return []
        return [self.text[i] for i in self.indices(step, salt=1, n=len(self.text))]


def indices_of(step: int, *, size: int, n: int, seed: int, salt: int = 0) -> list[int]:
    """Which ``size`` of ``n`` items an optimiser step has; see `Context.indices`."""
    picked: list[int] = []
    while len(picked) < size:
        epoch, offset = divmod(step * size + len(picked), n)
        order = _permutation(n, seed, salt, epoch)
        picked += order[offset : offset + size - len(picked)]
    return picked


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, salt: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(
        ((seed * 1_000_003 + salt) * 1_000_003 + epoch) % (1 << 64)
    )
    return torch.randperm(n, generator=generator).tolist()


class Method:
    """Base of all methods; see the module docstring.

    Class attributes:
        Config: the method's own fields.
        card: one line about the method.
        remembers: names of attributes that decide later steps (buffers, thresholds, schedules); they
            are checkpointed, so that a killed run resumes exactly.
        partial: whether its loss may be computed of the teacher's likeliest tokens and one bin of all
            others, by `MicroBatch.sum` alone: where the bin weighs what the teacher gives it (forward KL).
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    card: ClassVar[Card]
    remembers: ClassVar[tuple[str, ...]] = ()
    partial: ClassVar[bool] = False

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        """Checks the convention at import, so that a malformed method fails with a sentence.

        An ``abstract`` class is a base of methods and no method itself.
        """
        if abstract:
            return
        if not isinstance(getattr(cls, "card", None), Card):
            raise TypeError(f"method {cls.__name__} needs a class attribute `card` of type Card")
        if not (isinstance(cls.Config, type) and issubclass(cls.Config, MethodConfig)):
            raise TypeError(f"Config of method {cls.__name__} must be a subclass of MethodConfig")
        if len(cls.card.space) > 3:
            raise TypeError(f"method {cls.__name__} has a search space of more than 3 own fields")
        if len(cls.Config.model_fields) > 8:
            raise TypeError(
                f"method {cls.__name__} has more than 8 config fields; nest some of them"
            )

    def __init__(self, config: Any) -> None:
        self.config = config

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """The sequences of optimiser step ``step`` (0-based), identical on every rank.

        By default the step's training examples, each token counting the same.
        """
        return (Stream.of("response", ctx.batch(step)),)

    @property
    def asks(self) -> Responses:
        """Whose responses `window` takes from `Context.responses`, step by step; "data" also if it takes
        none there. A teacher's can be made before their step comes. What the teacher says *about*
        responses is `reads`.
        """
        return "data"

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """The micro-batch's part of ``stream``: scalars, summed, never averaged.

        ``loss`` is minimised, with gradient; all entries are logged, divided by the stream's count.
        """
        raise NotImplementedError

    def reads(self) -> tuple[Responses, ...]:
        """Whose responses the teacher is asked about, where all are there before training; else none.

        What is told here can be read from a store (`kdbench.trainers.store`) instead of a teacher in
        memory. By default the data set's, for a method that says that it samples nothing.
        """
        card = self.card
        known = card.teacher_logits and card.policy == "off" and not card.student_samples
        return ("data",) if known else ()

    def needs_probabilities(self) -> bool:
        """Whether the teacher's probabilities are read, as it is set; else its answers suffice, if any."""
        return self.card.teacher_logits

    def on_evaluation(self, ctx: Context, metrics: dict[str, float]) -> None:
        """Called after each evaluation on the development set."""

    def after_step(self, ctx: Context, step: int, terms: dict[str, float]) -> None:
        """Called after each optimiser step with the logged means of the window."""

    def parameters(self, student_width: int, teacher_width: int) -> dict[str, torch.nn.Module]:
        """Extra trainable modules of the method's own (projectors), by name; checkpointed.

        Widths are hidden sizes; that of a teacher that is not there is 0.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers: tensors, sequences, numbers, strings, lists and dicts of those."""
        return {name: getattr(self, name) for name in self.remembers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        for name in self.remembers:
            setattr(self, name, state[name])


class BadLoss(InputError, TypeError):
    """A method's loss returned what the loop cannot use."""


def checked_sums(method: Method, found: Any) -> dict[str, torch.Tensor]:
    """What a method's ``loss`` returned, if it is what it must be.

    Raises:
        BadLoss: it is not; the sentence names the method and what is wrong.
    """

    def refuse(what: str) -> BadLoss:
        name = type(method).__name__
        return BadLoss(
            f"loss() of method {name} {what}; it must return a mapping of scalar tensors, each a sum "
            "over the micro-batch, with the one to minimise under 'loss'"
        )

    if not isinstance(found, Mapping):
        raise refuse(f"returned {type(found).__name__}")
    if "loss" not in found:
        raise refuse(f"returned no 'loss' but {', '.join(map(repr, found)) or 'nothing'}")
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise refuse(f"returned {type(value).__name__} under {name!r}")
        if value.ndim:
            raise refuse(f"returned a tensor of shape {tuple(value.shape)} under {name!r}")
    if not found["loss"].requires_grad:
        raise refuse("returned a 'loss' without gradient")
    return dict(found)
