"""One training on one machine, as what memory and time are counted of."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from kdbench.harness.plan.activations import Pass
from kdbench.harness.plan.hardware import WHOLE, Machine, Scaling
from kdbench.harness.plan.shapes import Shape
from kdbench.harness.plan.work import Work
from kdbench.trainers.optim import Recipe

Parts = Mapping[str, int]
PADDED = {"opt", "biogpt"}
"""``model_type`` of models whose rows hold one sequence each on a GPU (docs/cuda.md)."""
EAGER = {"gemma2"}
"""Of models whose attention transformers writes out."""
WIDEST_HEAD = 256
"""Units of a head that the GPU's kernel takes; `kdbench.trainers.cuda.attention`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a training row, on average: of the prompt, of the response, of a row of plain text.

    ``longest``: of the longest row, where it is known; else it is what the recipe allows.
    """

    prompt: float
    response: float
    text: float
    longest: int | None = None

    @property
    def row(self) -> float:
        """Prompt and response."""
        return self.prompt + self.response


class Micro(NamedTuple):
    """The largest micro-batch that may come.

    Attributes:
        tokens: of its sequences.
        laid: of its rows, padding included.
        row: of a row; of a sequence on a CPU, whose attention goes by sequence.
        targets: tokens that are predicted.
    """

    tokens: int
    laid: int
    row: int
    targets: int


class Stream(NamedTuple):
    """The most that a stream of a step may have on one rank.

    Attributes:
        sequences: how many.
        longest: tokens of one.
        mean: on average.
        group: sequences that stay together.
        targets: share of tokens that are predicted.
    """

    sequences: int
    longest: int
    mean: float
    group: int
    targets: float

    @property
    def tokens(self) -> int:
        """If all are as long as they may be."""
        return self.sequences * self.longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training on one machine.

    Attributes:
        student: the model that is trained.
        teacher: the frozen one, if the method has it in memory.
        stored: whether it is read from a store, so that only its head is.
        recipe: with its precision resolved.
        work: what a step does.
        lengths: of the rows.
        decode_rows: answers written together.
        vllm: they are by vLLM, in a process of its own.
    """

    student: Shape
    teacher: Shape | None
    recipe: Recipe
    work: Work
    lengths: Lengths
    decode_rows: int
    machine: Machine
    scaling: Scaling = WHOLE
    stored: bool = False
    vllm: bool = False

    @property
    def vocab(self) -> int:
        """Columns that are compared: those both models have."""
        return min(s.vocab for s in (self.student, self.teacher) if s)

    @property
    def ranks(self) -> int:
        """Processes among which a step's sequences are dealt."""
        return self.machine.count

    @property
    def share(self) -> int:
        """Among how many of them the student's state is divided."""
        return self.scaling.share(self.ranks)

    @property
    def teacher_share(self) -> int:
        """The same of the teacher's layers; of one that is read from a store each has the head."""
        return 1 if self.stored else self.scaling.teacher_share(self.ranks)

    @property
    def full(self) -> int:
        """Bytes of a master weight."""
        return 8 if self.recipe.precision == "fp64" else 4

    @property
    def held(self) -> int:
        """Bytes of a weight of the student: what is frozen needs no more than the arithmetic reads."""
        return 2 if self.half and self.frozen else self.full

    @property
    def answering(self) -> int:
        """Bytes of a weight of a model that is only read."""
        return {"bf16": 2, "fp64": 8}.get(self.recipe.precision, 4)

    @property
    def half(self) -> bool:
        """Under autocast to bfloat16."""
        return self.recipe.precision == "bf16"

    @property
    def trained(self) -> int:
        """Parameters with a gradient."""
        width = self.teacher.hidden if self.teacher else 0
        extra = self.work.extra(self.student.hidden, width)
        return self.student.trained(self.recipe.lora) + extra

    @property
    def frozen(self) -> bool:
        """Whether all but adapters is."""
        return self.recipe.lora is not None

    @property
    def four_bits(self) -> bool:
        """Whether the frozen layers are, and so are widened where something else reads them."""
        return self.recipe.lora is not None and self.recipe.lora.quantize is not None

    @property
    def longest(self) -> int:
        """Tokens of the longest row; an answer that is sampled may be as long as the recipe allows."""
        allowed, known = self.recipe.max_length, self.lengths.longest
        fresh = self.work.sampled or self.work.taught
        return allowed if known is None or fresh else min(known, allowed)

    @property
    def streams(self) -> list[Stream]:
        """Those of a step, on one rank: groups are dealt to ranks."""
        recipe, mean, group = self.recipe, self.lengths, self.work.group
        groups = ceil(recipe.batch_size * ceil(self.work.trained) / group)
        share = max(mean.response / mean.row, recipe.max_response / recipe.max_length)
        mine = ceil(groups / self.ranks) * group
        found = [Stream(mine, self.longest, mean.row, group, share)]
        if self.work.text and mean.text:
            rows = ceil(recipe.batch_size / self.ranks)
            found.append(Stream(rows, ceil(mean.text), mean.text, 1, 1.0))
        return found

    @property
    def micro_batches(self) -> int:
        """Forward passes of a rank's step, at most."""
        return sum(max(1, ceil(s.tokens / self.recipe.micro_tokens)) for s in self.streams)

    @property
    def padded(self) -> bool:
        """Whether rows hold one sequence each."""
        models = (self.student, self.teacher)
        return not self.machine.cpu and any(m.family in PADDED for m in models if m)

    def apart(self, shape: Shape, *, dropout: bool = False) -> bool:
        """Whether a model's attention goes sequence by sequence and needs no mask.

        On a GPU a kernel does it, in half precision alone: `kdbench.trainers.cuda.attention`.
        """
        if self.machine.cpu:
            return True
        served = self.half and shape.head_dim <= WIDEST_HEAD and shape.family not in EAGER
        return served and not self.padded and not (dropout and shape.attention_dropout)

    @property
    def largest(self) -> Micro:
        """Of all streams the largest micro-batch; a group that is larger than the limit stands alone."""
        found = [self._largest(stream) for stream in self.streams]
        return Micro(*map(max, zip(*found, strict=True)))

    def _largest(self, stream: Stream) -> Micro:
        limit = max(self.recipe.micro_tokens, stream.group * stream.longest)
        tokens = min(stream.tokens, limit)
        targets = round(tokens * stream.targets)
        if self.machine.cpu:
            return Micro(tokens, tokens, min(tokens, stream.longest), targets)
        if self.padded:  # short ones are filled up to the longest among them
            rows = min(stream.sequences, max(stream.group, int(limit // stream.mean)))
            return Micro(tokens, rows * stream.longest, stream.longest, targets)
        row = min(tokens, self.recipe.max_length)
        return Micro(tokens, ceil(tokens / row) * row, row, targets)

    def forward(self) -> Pass:
        """The student's pass over the largest micro-batch."""
        micro = self.largest
        return Pass(
            tokens=micro.laid,
            row=micro.row,
            apart=self.apart(self.student, dropout=self.recipe.dropout),
            half=self.half,
            wide=self.full == 8,
            cpu=self.machine.cpu,
            amx=self.machine.amx,
            dropout=self.recipe.dropout,
            checkpoint=self.scaling.checkpoint_activations,
        )


def total(parts: Parts) -> int:
    """Bytes of all parts."""
    return sum(parts.values())
