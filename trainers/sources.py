"""Whose responses an optimiser step trains on: the student's, the teacher's, earlier ones, plain text.

The data set's own are `Context.batch`. Draws depend on nothing but a counter, so that no generator
state needs saving and ranks cannot take different branches (DistiLLM's code draws from one numpy
generator a rank, so its ranks do).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import Field

from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.records import Record
from kdbench.harness.files.rows import Place, drop_lines, read_checked, read_on
from kdbench.harness.files.store import Say, append_rows, to_stderr
from kdbench.trainers.method import Context, Dimension, Method, MethodConfig, Responses, Stream
from kdbench.trainers.parallel.ranks import of_main
from kdbench.trainers.types import Answer, Prompt, Sequence

WAIT = 600.0  # seconds for another run's append


def with_response(sequence: Sequence, response: Seq[int], **columns: torch.Tensor) -> Sequence:
    """The same prompt with another response."""
    return Sequence(sequence.prompt, tuple(response), sequence.key, columns)


def with_constants(sequence: Sequence, **values: float) -> Sequence:
    """The same sequence with columns that hold one number for all its tokens."""
    full = {name: torch.full((len(sequence.response),), v) for name, v in values.items()}
    return with_response(sequence, sequence.response, **full)


def as_prompts(sequences: Seq[Sequence], *, apart: bool = False) -> list[Prompt]:
    """What the sampler needs of training examples.

    ``apart``: a prompt that comes again gets another answer; else the same one.
    """
    asked: Counter[int] = Counter()
    prompts = []
    for sequence in sequences:
        prompts.append(Prompt(sequence.prompt, sequence.key, asked[sequence.key]))
        asked[sequence.key] += apart
    return prompts


def drawn(seed: int, step: int, salt: int, count: int = 1) -> list[float]:
    """Uniform numbers in [0, 1): a function of (seed, salt, step), the same on every rank."""
    number = (seed * 1_000_003 + salt) * 1_000_003 + step + 500_009
    generator = torch.Generator().manual_seed(number % (1 << 64))
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def student_responses(
    ctx: Context,
    step: int,
    prompts: list[Sequence],
    *,
    temperature: float = 1.0,
    teacher_mix: float = 0.0,
) -> list[Sequence]:
    """Fresh answers of the student to the prompts of some examples, end token included.

    A prompt that comes twice, as few of them or two rows alike make it, gets two answers.
    ``teacher_mix`` is the share of the teacher's distribution at every token.
    """
    seed = (ctx.seed * 1_000_003 + step + 1) % (1 << 31)  # never the same twice in a run
    decoding = replace(ctx.decoding, seed=seed, temperature=temperature)
    answers = ctx.answer(as_prompts(prompts, apart=True), decoding, teacher_mix=teacher_mix)
    return [with_response(s, a.ids) for s, a in zip(prompts, answers, strict=True)]


def replayed(items: list[Sequence], seed: int, step: int, count: int) -> list[Sequence]:
    """``count`` remembered responses, without repetition as long as there are enough.

    A function of (seed, step) and the content, so that all ranks draw the same.
    """
    keys = drawn(seed, step, 11, len(items))
    order = sorted(range(len(items)), key=keys.__getitem__)
    return [items[order[i % len(order)]] for i in range(count)]


RESPONSES = Dimension(name="method.responses", choices=("data", "teacher", "teacher-greedy"))
"""In the search space of methods that learn from responses of others."""


class ResponsesConfig(MethodConfig):
    """Fields of `OnResponses`."""

    responses: Responses = Field(
        "data",
        description="whose responses are learnt from: data, teacher (sampled), teacher-greedy",
    )


class OnResponses(Method, abstract=True):
    """Base of methods whose loss reads the responses of somebody else; ``Config`` has ``responses``."""

    @property
    def asks(self) -> Responses:
        """See `Method`."""
        return self.config.responses

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """The step's batch with the configured responses."""
        return (Stream.of("response", ctx.responses(step, self.asks)),)

    def reads(self) -> tuple[Responses, ...]:
        """The configured ones, of a method that asks the teacher about them."""
        return (self.asks,) if super().reads() else ()


def plain_text(ctx: Context, step: int, weight: float) -> tuple[Stream, ...]:
    """The language-modelling loss that several papers add (MiniLLM's L_PT, DPKD's LM term).

    The stream ``text``, or nothing if its weight is zero or the suite has no plain text.
    """
    rows = ctx.text_batch(step) if weight else []
    return (Stream.of("text", rows, weight=weight),) if rows else ()


class AnswerRow(Record):
    """One answer of the teacher, as token ids."""

    index: int
    key: int
    response: list[int]


@dataclass(eq=False)
class TeacherAnswers:
    """Teacher answers to prompts of one kind: made when first needed, kept in a file, shared.

    One answer a prompt, the same for every method, step and training seed, because the sampler's
    noise depends on the prompt alone. The file has one row an answer, appended a batch at a time;
    several runs may use it at once. The lock is held while appending only, so two of them may sample
    one answer: the first in the file is that of both. With several ranks the main one alone looks at
    the file.

    Args:
        prompts: what is asked.
        path: JSONL file of the answers so far.
        sample: answers prompts with the teacher, the same on every rank.
        writes: whether this rank is the one that reads and appends to the file.
        say: told of damaged answers, which are sampled again.
    """

    prompts: Seq[Sequence]
    path: Path
    sample: Callable[[list[Prompt]], list[Answer]]
    _: KW_ONLY
    writes: bool
    say: Say = to_stderr

    def __post_init__(self) -> None:
        of_main(self._heal, main=self.writes)
        self._place = Place()  # how far the file was read
        self._found: dict[int, tuple[int, ...]] = {}
        self._look()

    def pick(self, indices: Iterable[int]) -> list[Sequence]:
        """The teacher's answers to these examples; what is missing is sampled together."""
        wanted = list(indices)
        if self._missing(wanted):
            self._look()  # another run may have asked for the same ones
        if missing := self._missing(wanted):
            self._add(missing)
        return [with_response(self.prompts[i], self._found[i]) for i in wanted]

    def _missing(self, wanted: list[int]) -> list[int]:
        return [i for i in dict.fromkeys(wanted) if i not in self._found]

    def _look(self) -> None:
        """Takes in what was added to the file since it was last looked at."""
        self._found |= of_main(self._read, main=self.writes)

    def _add(self, indices: list[int]) -> None:
        answers = self.sample(as_prompts([self.prompts[i] for i in indices]))
        found = {i: answer.ids for i, answer in zip(indices, answers, strict=True)}
        self._found |= of_main(partial(self._kept, found), main=self.writes)

    def _kept(self, found: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        """Appends answers to the file, but for those that others gave meanwhile: theirs count."""
        with RunLock(self.path.parent, wait=WAIT):
            there = self._read()
            rows = [
                AnswerRow(index=i, key=self.prompts[i].key, response=list(ids))
                for i, ids in found.items()
                if i not in there
            ]
            append_rows(self.path, rows, digests=True)
        return found | there

    def _read(self) -> dict[int, tuple[int, ...]]:
        """Answers that were not known, from the lines that were not read yet."""
        found: dict[int, tuple[int, ...]] = {}
        rows, _, self._place = read_on(self.path, AnswerRow, self._place)
        for row in rows:
            ours = row.index < len(self.prompts) and self.prompts[row.index].key == row.key
            if ours and row.index not in self._found:
                found.setdefault(row.index, tuple(row.response))
        return found

    def _heal(self) -> None:
        """Takes damaged answers out of the file: they are sampled again when they are needed."""
        if not read_checked(self.path, AnswerRow)[1]:
            return
        with RunLock(self.path.parent, wait=WAIT):
            damaged = read_checked(self.path, AnswerRow)[1]
            drop_lines(self.path, damaged)
        lines = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
        self.say(
            f"note: {self.path} is not as it was written (line {lines}): these answers are sampled again"
        )


# -- collect, then optimise several times, as PPO does ---------------------------------------------


class PPO(MethodConfig):
    """How rollouts are collected and reused; MiniLLM's values (paper section 3, authors' scripts)."""

    rollouts: int = Field(
        256,
        gt=0,
        description="answers a collection, over all ranks; whole optimiser steps, rounded up",
    )
    inner_epochs: int = Field(4, gt=0, description="passes over a collection")
    clip: float = Field(0.2, gt=0, description="ε of the clipped ratio")


class RolloutMethod(Method, abstract=True):
    """Base of methods that train on collected rollouts with advantages, and on plain text.

    Their ``Config`` has ``ppo``, ``teacher_mix`` and ``lm_coef``. The number of rollouts is global,
    so it does not depend on the number of ranks (the authors' code divides it by all ranks,
    model-parallel ones included).
    """

    remembers = ("rollouts",)

    rollouts: Seq[Sequence] = ()
    _announced = False

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """A mini-batch of the current rollouts with their advantages, and plain text."""
        ppo: PPO = self.config.ppo
        size = ctx.batch_size
        batches = math.ceil(ppo.rollouts / size)
        number, inside = divmod(step, batches * ppo.inner_epochs)
        if inside == 0:
            self._collect(ctx, step, ctx.asked(number, size=batches * size))
        elif not self._announced:  # resumed
            self._announce(ctx)
        epoch, batch = divmod(inside, batches)
        place, n = epoch * batches + batch, len(self.rollouts)
        picked = ctx.indices(place, size=size, salt=2 + number, n=n)
        rollouts = self.with_advantages([self.rollouts[i] for i in picked])
        return (Stream.of("response", rollouts), *plain_text(ctx, step, self.config.lm_coef))

    def with_advantages(self, rollouts: list[Sequence]) -> list[Sequence]:
        """The rollouts of one mini-batch with the columns that the loss reads.

        They come with ``log_q`` and ``log_p``, of student and teacher when they were sampled.
        """
        raise NotImplementedError

    def _collect(self, ctx: Context, step: int, indices: list[int]) -> None:
        prompts = [ctx.prompts[i] for i in indices]
        mix = self.config.teacher_mix
        self.rollouts = student_responses(ctx, step, prompts, teacher_mix=mix)
        self._announce(ctx)
        log_q, log_p = (ctx.score(self.rollouts, who) for who in ("student", "teacher"))
        self.rollouts = [
            with_response(s, s.response, log_q=q, log_p=p)
            for s, q, p in zip(self.rollouts, log_q, log_p, strict=True)
        ]

    def _announce(self, ctx: Context) -> None:
        """The teacher will be asked about these rollouts in every inner epoch."""
        size, rollouts = ctx.batch_size, self.rollouts
        ctx.keep("rollouts", [rollouts[i : i + size] for i in range(0, len(rollouts), size)])
        self._announced = True


def column(sequences: list[Sequence], name: str) -> torch.Tensor:
    """A column of several responses, padded on the right with zeros, (B, L)."""
    return torch.nn.utils.rnn.pad_sequence([s.columns[name] for s in sequences], batch_first=True)
