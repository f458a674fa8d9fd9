"""Tokens, FLOPs and hours of each phase.

FLOPs are those of matrix products and of attention: 2 a parameter and token forward, twice that backward;
the head only where a token is predicted. Hours come as an interval: what training and prompts reach of a
card's peak, and sampling of its memory's bandwidth, is an assumption (`TRAINING`, `READING`), as is the time
that starting a kernel takes (`KERNEL`). None of it was measured on a GPU.
"""

from math import ceil
from typing import NamedTuple

from kdbench.harness.plan.hardware import Machine
from kdbench.harness.plan.job import Job
from kdbench.harness.plan.rows import Rows
from kdbench.harness.plan.shapes import Shape

TRAINING = (0.20, 0.45)
"""Achieved share of the peak of matrix products, from and to."""
READING = (0.30, 0.70)
"""Achieved share of the peak bandwidth while a token is decoded."""
KERNEL = (6e-6, 2.5e-6)
"""Seconds from one kernel's start to the next in a graph, where neither arithmetic nor memory decides."""
LAYER_KERNELS = 45
"""Kernels a layer of a decoding step that is recorded as a graph; `benchmarks/cuda_counts.py` counts them."""
NOISE_KERNELS = 3
"""Kernels of a step's draw; `kdbench.trainers.cuda.noise`."""
FULL_ROWS = 0.7
"""Mean share of a batch's rows that are still being written."""
ANSWER = (0.8, 0.3)
"""Tokens of a sampled answer as a share of the most it may have: the slow end and the fast one."""


class Span(NamedTuple):
    """An interval: what is likely at most, and at least, seconds."""

    slow: float
    fast: float

    def __add__(self, other: "Span") -> "Span":  # type: ignore[override]
        return Span(self.slow + other.slow, self.fast + other.fast)

    def times(self, factor: float) -> "Span":
        """So many of it."""
        return Span(self.slow * factor, self.fast * factor)


NOTHING = Span(0.0, 0.0)


class Spent(NamedTuple):
    """Of a phase: tokens that are trained on, read and sampled (both ends), FLOPs, and seconds."""

    steps: int
    trained: float
    read: float
    sampled: Span
    flops: float
    seconds: Span


def forward_flops(shape: Shape, tokens: float, row: float, predicted: float) -> float:
    """Of a forward pass over tokens in rows of so many, ``predicted`` of which go through the head."""
    body = 2 * shape.active + 4 * shape.layers * shape.queries * row
    return tokens * body + 2 * shape.head * predicted


def training_time(job: Job, rows: Rows) -> Spent:
    """All steps of a training, its sampling and its development evaluations left out."""
    recipe, work = job.recipe, job.work
    batch, mean = recipe.batch_size, job.lengths
    steps = _steps(job, rows)
    each = [(batch * work.trained * mean.row, batch * work.trained * mean.response)]
    each += [(batch * mean.text, batch * mean.text)] if work.text else []
    back = 4 if job.scaling.checkpoint_activations else 3
    trained = sum(tokens for tokens, _ in each)
    dropped, student = recipe.dropout, job.student
    seen = [_seen(job, student, length, dropout=dropped) for length in (mean.row, mean.text)]
    flops = sum(
        back * forward_flops(student, *_at(row, one)) for row, one in zip(seen, each, strict=False)
    )
    read = 0.0
    if job.teacher is not None and work.teacher and not job.stored:
        tokens, targets = each[0]
        asked = [(tokens * work.teacher, targets * work.teacher)]
        asked += each[1:] if work.text_teacher else []
        seen = [_seen(job, job.teacher, length) for length in (mean.row, mean.text)]
        flops += sum(
            forward_flops(job.teacher, *_at(row, one))
            for row, one in zip(seen, asked, strict=False)
        )
        read += sum(tokens for tokens, _ in asked)
    for model, count in ((job.student, work.scored), (job.teacher, work.scored_teacher)):
        if model is not None and count:
            scored = (batch * count * mean.row, batch * count * mean.response)
            flops += forward_flops(model, *_at(_seen(job, model, mean.row), scored))
            read += scored[0]
    seconds = _product_seconds(job, flops)
    return Spent(steps, trained * steps, read * steps, NOTHING, flops * steps, seconds.times(steps))


def capturing_time(job: Job, rows: Rows) -> Spent:
    """One pass of the teacher over all rows, into a store."""
    assert job.teacher is not None, "a store is of a teacher"
    count, mean = stored_rows(job, rows), job.lengths
    whole = (count * mean.row, count * mean.response)
    flops = forward_flops(job.teacher, *_at(_seen(job, job.teacher, mean.row), whole))
    return Spent(0, 0.0, whole[0], NOTHING, flops, _product_seconds(job, flops))


def stored_rows(job: Job, rows: Rows) -> int:
    """Rows that a training reads of a store: all, or fewer where its steps are given and few."""
    count = rows.prompts if job.work.taught else rows.train
    steps = job.recipe.steps_of(rows.train)
    return count if steps is None else min(count, steps * job.recipe.batch_size)


def _steps(job: Job, rows: Rows) -> int:
    recipe, found = job.recipe, job.recipe.steps_of(rows.train)
    if recipe.response_tokens:
        a_step = recipe.batch_size * job.work.trained * job.lengths.response
        by_tokens = ceil(recipe.response_tokens / a_step)
        found = min(found, by_tokens) if found else by_tokens
    return found or 1


def _seen(job: Job, shape: Shape, length: float, *, dropout: bool = False) -> float:
    """Tokens that attention computes for each one: its sequence's, or with a mask a whole row's."""
    return length if job.apart(shape, dropout=dropout) else float(job.recipe.max_length)


def _at(row: float, tokens: tuple[float, float]) -> tuple[float, float, float]:
    return tokens[0], row, tokens[1]


def _product_seconds(job: Job, flops: float) -> Span:
    peak = _peak(job.machine, half=job.half) * job.ranks
    return Span(flops / (peak * TRAINING[0]), flops / (peak * TRAINING[1])) if peak else NOTHING


def _peak(machine: Machine, *, half: bool) -> float:
    return (machine.half if half else machine.single) * 1e12


def sampling_time(
    shape: Shape,
    machine: Machine,
    *,
    answers: float,
    longest: int,
    rows: int,
    size: int,
    ranks: int,
) -> Spent:
    """So many answers, by one model.

    Args:
        shape: of the model.
        machine: one card of it decodes a rank's share.
        answers: how many.
        longest: tokens an answer may have.
        rows: written together.
        size: bytes of an element.
        ranks: among which they are dealt.
    """
    live = max(1.0, rows * FULL_ROWS)
    tokens = Span(answers * longest * ANSWER[0], answers * longest * ANSWER[1])
    flops = 2 * (shape.active + shape.head) * tokens.slow
    if machine.cpu:
        return Spent(0, 0.0, 0.0, tokens, flops, NOTHING)
    weights = size * shape.read(live)
    cache = live * longest * shape.layers * shape.keys * size
    kernels = shape.layers * LAYER_KERNELS + NOISE_KERNELS
    ends = []
    for share, start, count in zip(READING, KERNEL, tokens, strict=True):
        step = (weights + cache) / (machine.bandwidth * 1e12 * share) + kernels * start
        ends.append(step * count / (live * ranks))
    return Spent(0, 0.0, 0.0, tokens, flops, Span(*ends))


def evaluations(job: Job, rows: Rows) -> int:
    """How often a training looks at the development set."""
    steps, every = _steps(job, rows), job.recipe.evaluation_every(rows.train)
    return 1 + (ceil(steps / every) if every else 1)


def added(parts: list[Spent]) -> Spent:
    """Several as one."""
    whole = Spent(0, 0.0, 0.0, NOTHING, 0.0, NOTHING)
    for part in parts:
        whole = Spent(
            whole.steps + part.steps,
            whole.trained + part.trained,
            whole.read + part.read,
            whole.sampled + part.sampled,
            whole.flops + part.flops,
            whole.seconds + part.seconds,
        )
    return whole
