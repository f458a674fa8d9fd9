"""The interface between a distillation method and the one training loop.

A method answers two questions: *which sequences does this optimiser step train on* (``window``; if it
says nothing, the step's training examples) and *what is the summed loss of some of them* (``loss``). It
never sees ranks, micro-batches, padding,
gradient accumulation or division by a count: the loop owns all of that, so no method can get it wrong.

To add a method, write one file with a subclass of :class:`Method`; ``kdbench new-method`` and
CONTRIBUTING show how.
"""

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict

from kdbench.trainers.types import Answer, Decoding, Packed, Prompt, Sequence

Unit = Literal["token", "sequence", "group"]


class MethodConfig(BaseModel):
    """Base of each method's own fields (at most 8)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What ``kdbench ls methods`` prints. ``cost`` is relative to SFT's optimiser step."""

    title: str
    paper: str
    variant: str
    policy: Literal["off", "on", "mixed"]
    cost: str
    teacher_logits: bool = False
    teacher_samples: bool = False
    student_samples: bool = False
    plain_text: bool = False
    same_tokenizer: bool = True


@dataclass(frozen=True, slots=True)
class Stream:
    """One named loss of a window: groups of sequences that belong together, and what counts as one.

    The loop minimises ``weight * sum over groups / count`` where ``count`` is the number of target
    tokens, sequences or groups of the *whole* window over all ranks. Sequences of a group always
    share a micro-batch.
    """

    name: str
    groups: tuple[tuple[Sequence, ...], ...]
    unit: Unit = "token"
    weight: float = 1.0

    @property
    def count(self) -> int:
        """Number of units in the window."""
        if self.unit == "group":
            return len(self.groups)
        if self.unit == "sequence":
            return sum(len(g) for g in self.groups)
        return sum(s.targets for g in self.groups for s in g)


def singles(name: str, sequences: Seq[Sequence], weight: float = 1.0) -> Stream:
    """A token-normalised stream of independent sequences."""
    return Stream(name, tuple((s,) for s in sequences), "token", weight)


Objective = Callable[
    [torch.Tensor, torch.Tensor | None, torch.Tensor, dict[str, torch.Tensor]],
    dict[str, torch.Tensor],
]


class Widths(NamedTuple):
    """Hidden sizes, for a method's own modules; ``teacher`` is 0 without a teacher."""

    student: int
    teacher: int


class Micro(Protocol):
    """A micro-batch on its way through the models; what :meth:`Method.loss` computes with."""

    packed: Packed
    student_head: Any
    teacher: Any

    def sum(self, objective: Objective, *, teacher: Any) -> torch.Tensor:
        """Sum of a token objective over the micro-batch, streamed through the heads in tiles.

        ``teacher``: True, False, or what `Context.copy_student` returned. Returns a scalar with
        gradient. Every other entry of the objective's result is logged.
        """

    def logprobs(self) -> torch.Tensor:
        """Log q(target) for each target token, shape (N,), differentiable."""

    def teacher_logprobs(self) -> torch.Tensor:
        """Log p(target) for each target token, shape (N,), no gradient."""

    def student_hidden(self) -> torch.Tensor:
        """The student's last hidden state at each target, (N, D), differentiable."""

    def teacher_hidden(self) -> torch.Tensor:
        """The teacher's at each of its targets, (N', D'); N' differs if it has its own tokenizer."""

    def together(
        self,
        function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        rows: torch.Tensor,
        teacher_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``function(student_logits (n, V), teacher_logits (n', V'))`` of some targets at once.

        For objectives that compare rows with each other; keep n to some hundred. The logits are not
        kept but recomputed in backward.
        """

    def inputs(self) -> list[torch.Tensor]:
        """Input ids of each sequence (all but its last token)."""

    def embed(self, ids: torch.Tensor, *, teacher: bool = False) -> torch.Tensor:
        """Input embeddings of token ids."""

    def student_backbone(self, embeddings_BTD: torch.Tensor) -> torch.Tensor:
        """The student's last hidden states for given input embeddings, (B, T, D)."""

    def sum_by_sequence(self, values_N: torch.Tensor) -> torch.Tensor:
        """Adds token values up to one number a sequence: (N,) -> (B,)."""

    def log(self, **sums: torch.Tensor) -> None:
        """Reports detached sums, divided by the stream's count when logged."""


@dataclass(slots=True)
class Context:
    """What a method may use. Everything here is the same on every rank.

    Attributes:
        train: training examples in file order.
        text: plain-text rows for the language-modelling loss, or empty.
        batch_size: sequences of an optimiser step (global).
        seed: training seed.
        vocab: number of real token ids.
        eos_id: end token.
        decoding: how responses are sampled during training (seed replaced per use).
        progress: fraction of the training budget already used, in [0, 1).
        answer: samples responses of the student (or a mixture with the teacher), in prompt order.
        teacher_answers: the teacher's answers to training examples by index; sampled when first
            asked for (what is asked for together is sampled together), shared and cached.
        lookahead: optimiser steps whose prompts `teacher_batch` asks for together.
        score: log-probabilities of responses under ("student" | "teacher"), no gradient.
        meter: counts tokens by kind: "sampled", "teacher" …
        copy_student: the student as it is now, or with weights it had, frozen, for `Micro.sum`; its
            ``model.state_dict()`` are such weights. Set by the loop.
        keep: announces rows whose teacher outputs will be needed several times (see
            `kdbench.trainers.teacher_memory.TeacherMemory.keep`).
        twin: a sequence in the teacher's tokens (see `kdbench.trainers.alignment`); None if the two
            share a tokenizer.
    """

    train: Seq[Sequence]
    text: Seq[Sequence]
    batch_size: int
    seed: int
    vocab: int
    eos_id: int
    decoding: Decoding
    answer: Callable[..., list[Answer]]
    teacher_answers: Callable[[Seq[int]], list[Sequence]]
    score: Callable[[Seq[Sequence], str], list[torch.Tensor]]
    lookahead: int = 1
    progress: float = 0.0
    meter: Counter[str] = field(default_factory=Counter)
    copy_student: Callable[..., Any] | None = None
    keep: Callable[[str, Seq[Seq[Sequence]]], None] = lambda name, blocks: None
    twin: Callable[[Sequence], Sequence] | None = None

    def indices(
        self, step: int, *, size: int | None = None, salt: int = 0, n: int = 0
    ) -> list[int]:
        """Indexes of the training examples of optimiser step ``step`` (0-based).

        A fresh permutation each epoch; a pure function of (seed, salt, step), so that the order is the
        same for every method and needs no state to resume. ``n`` is the population (default: train).
        """
        size = size or self.batch_size
        n = n or len(self.train)
        picked: list[int] = []
        while len(picked) < size:
            epoch, offset = divmod(step * size + len(picked), n)
            order = _permutation(n, self.seed, salt, epoch)
            picked += order[offset : offset + size - len(picked)]
        return picked

    def batch(self, step: int) -> list[Sequence]:
        """Training examples of optimiser step ``step``, with the data set's responses."""
        return [self.train[i] for i in self.indices(step)]

    def paired_batch(self, step: int) -> list[Sequence]:
        """`batch`, with its text also in the teacher's tokens where those are others."""
        batch = self.batch(step)
        return [self.twin(s) for s in batch] if self.twin else batch

    def teacher_batch(self, step: int) -> list[Sequence]:
        """Training examples of optimiser step ``step`` with the teacher's answers."""
        first = step - step % self.lookahead
        ahead = [i for s in range(first, first + self.lookahead) for i in self.indices(s)]
        found = self.teacher_answers(ahead)
        place = (step - first) * self.batch_size
        return found[place : place + self.batch_size]

    def text_batch(self, step: int) -> list[Sequence]:
        """As many plain-text rows as examples; empty if the suite has none."""
        if not self.text:
            return []
        return [self.text[i] for i in self.indices(step, salt=1, n=len(self.text))]


_ORDERS: dict[tuple[int, int, int, int], list[int]] = {}


def _permutation(n: int, seed: int, salt: int, epoch: int) -> list[int]:
    key = (n, seed, salt, epoch)
    if key not in _ORDERS:
        if len(_ORDERS) > 8:
            _ORDERS.clear()
        generator = torch.Generator().manual_seed((seed * 1_000_003 + salt) * 1_000_003 + epoch)
        _ORDERS[key] = torch.randperm(n, generator=generator).tolist()
    return _ORDERS[key]


class Method:
    """Base of all methods; see the module docstring.

    Class attributes:
        Config: the method's own fields.
        card: one line about the method.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    card: ClassVar[Card]

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        """Checks the convention at import, so that a malformed method fails with a sentence.

        An ``abstract`` class is a base of methods and no method itself.
        """
        if abstract:
            return
        if not isinstance(getattr(cls, "card", None), Card):
            raise TypeError(f"method {cls.__name__} needs a class attribute `card` of type Card")
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
        return (singles("response", ctx.batch(step)),)

    def loss(self, ctx: Context, stream: Stream, micro: Micro) -> torch.Tensor:
        """Summed loss of the micro-batch's part of ``stream``: a scalar with gradient."""
        raise NotImplementedError

    def on_evaluation(self, ctx: Context, metrics: dict[str, float]) -> None:
        """Called after each evaluation on the development set."""

    def after_step(self, ctx: Context, step: int, terms: dict[str, float]) -> None:
        """Called after each optimiser step with the logged means of the window."""

    def parameters(self, widths: Widths) -> dict[str, torch.nn.Module]:
        """Extra trainable modules of the method's own (projectors), by name; checkpointed."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything the method remembers: tensors, numbers, strings, lists and dicts of those."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""


def with_response(sequence: Sequence, response: Seq[int], **columns: torch.Tensor) -> Sequence:
    """The same prompt with another response."""
    return Sequence(sequence.prompt, tuple(response), sequence.key, columns)


def as_prompts(sequences: Seq[Sequence], sample: int = 0) -> list[Prompt]:
    """What the sampler needs of training examples."""
    return [Prompt(s.prompt, s.key, sample) for s in sequences]
