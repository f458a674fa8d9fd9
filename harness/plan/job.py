"""One training on one machine, as what memory and time are counted of."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from kdbench.harness.plan.activations import Pass
from kdbench.harness.plan.hardware import WHOLE, Machine, Scaling
from kdbench.harness.plan.shapes import Shape
from kdbench.harness.plan.work import Work
from kdbench.trainers.optim import Recipe

Parts = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a training row, on average: of the prompt, of the response, of a row of plain text."""

    prompt: float
    response: float
    text: float

    @property
    def row(self) -> float:
        """Prompt and response."""
        return self.prompt + self.response


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
    def streams(self) -> list[tuple[float, float]]:
        """(tokens, targets) of each stream of a step, on one rank."""
        rows = ceil(self.recipe.batch_size / self.ranks)
        mean, trained = self.lengths, rows * self.work.trained
        found = [(trained * mean.row, trained * mean.response)]
        if self.work.text:
            found.append((rows * mean.text, rows * (mean.text - 1)))
        return found

    @property
    def micro_batches(self) -> int:
        """Forward passes of a rank's step."""
        return sum(max(1, ceil(t / self.recipe.micro_tokens)) for t, _ in self.streams)

    @property
    def largest(self) -> tuple[int, int]:
        """Tokens and targets of the largest micro-batch."""
        limit = self.recipe.micro_tokens
        cut = [(min(t, limit), n * min(1.0, limit / t)) for t, n in self.streams]
        return round(max(t for t, _ in cut)), round(max(n for _, n in cut))

    def forward(self) -> Pass:
        """The student's pass over the largest micro-batch."""
        tokens, cpu = self.largest[0], self.machine.cpu
        row = min(tokens, round(self.lengths.row) if cpu else self.recipe.max_length)
        laid = tokens if cpu else ceil(tokens / row) * row
        return Pass(
            tokens=laid,
            row=row,
            half=self.half,
            wide=self.full == 8,
            cpu=cpu,
            amx=self.machine.amx,
            dropout=self.recipe.dropout,
            checkpoint=self.scaling.checkpoint_activations,
        )


def total(parts: Parts) -> int:
    """Bytes of all parts."""
    return sum(parts.values())
