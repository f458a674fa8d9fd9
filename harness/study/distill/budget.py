"""What a comparison may cost, and about what it will: time and memory before anything is trained.

Operations are counted, a short product of matrices says how many a second the device does, and the rest is
rules of thumb: the numbers are "about". Once runs of the suite are there, their times say more
(`kdbench.harness.study.plan`).
"""

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kdbench.harness.config import TrainConfig
from kdbench.harness.errors import InputError
from kdbench.harness.own.settings import DEV_ROWS, EVALUATIONS, PASSES, Facts
from kdbench.harness.plan.hardware import CPU, Machine
from kdbench.harness.plan.job import Job, Lengths
from kdbench.harness.plan.known import find_shape
from kdbench.harness.plan.memory import highest
from kdbench.harness.plan.work import work_of
from kdbench.harness.registry import find_method
from kdbench.trainers.optim import Precision

if TYPE_CHECKING:
    from kdbench.trainers.method import Card

UNITS: dict[str, tuple[Literal["seconds", "passes", "tokens"], float]] = {
    "h": ("seconds", 3600.0),
    "m": ("seconds", 60.0),
    "min": ("seconds", 60.0),
    "ep": ("passes", 1.0),
    "tok": ("tokens", 1.0),
    "ktok": ("tokens", 1e3),
    "mtok": ("tokens", 1e6),
}
EFFICIENCY = 0.4
"""Share of a plain product's speed that a training reaches."""
DECODING = {"cpu": 5.0, "cuda": 15.0}
"""How much longer an operation takes while answers are written, a token at a time."""
TIMED = 1024
"""Rows and columns of the matrices that are multiplied."""
START_S = 30.0
"""Seconds of a run that are neither training nor answering: imports, loading, its preflight."""
AFFORDABLE = 4.0
"""Times SFT's cost that a method chosen by ``auto`` may have."""


class Budget(NamedTuple):
    """What every method (``passes``, ``tokens``) or all together (``seconds``) may use."""

    kind: Literal["seconds", "passes", "tokens"]
    amount: float


def parse_budget(text: str | None) -> Budget | None:
    """``2h``, ``30m``, ``3ep``, ``5Mtok`` as a budget; None stays None.

    Raises:
        InputError: none of these.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if found is None or found.group(2) not in UNITS or not float(found.group(1)):
        raise InputError(
            f"--budget {text}: write hours or minutes for all methods together (2h, 30m), or what each "
            "one has: passes over the data (3ep) or trained tokens (5Mtok, 200ktok)"
        )
    kind, factor = UNITS[found.group(2)]
    return Budget(kind, float(found.group(1)) * factor)


def speed_of(device: str) -> float:
    """Operations a second of a product of matrices, as trainings of this device compute."""
    import torch

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    one = torch.ones(TIMED, TIMED, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):  # the first one wakes threads and kernels up
        began = time.perf_counter()
        (one @ one).sum().item()
        best = min(best, time.perf_counter() - began)
    return 2 * TIMED**3 / best


def relative_cost(card: "Card", facts: Facts, passes: float) -> float:
    """Operations of a method's training relative to SFT's on the same tokens."""
    row = facts.prompts.mean + facts.answers.mean
    plain = 6 * facts.student * row
    cost = plain + (2 * facts.teacher * row if card.teacher_logits else 0)
    cost *= int(card.cost[0]) if card.cost[:1].isdigit() else 1
    written = 2 * facts.answers.mean * DECODING[facts.device] * EFFICIENCY
    if card.student_samples:
        cost += facts.student * written
    if card.teacher_samples:  # an answer a prompt, kept for later passes
        cost += facts.teacher * written / max(passes, 1.0)
    return cost / plain


def _training(facts: Facts, tokens: float, speed: float) -> float:
    """Seconds of SFT on so many response tokens."""
    row = facts.prompts.mean + facts.answers.mean
    return 6 * facts.student * row / facts.answers.mean * tokens / (speed * EFFICIENCY)


def _answering(parameters: int, answers: float, facts: Facts, speed: float) -> float:
    """Seconds of so many answers."""
    work = 2 * parameters * facts.answers.mean * answers * DECODING[facts.device]
    return work / speed


class Expected(NamedTuple):
    """About how long a comparison takes: what all methods share, and each method's own, in seconds."""

    shared: float
    each: dict[str, float]

    @property
    def total(self) -> float:
        """One run at a time."""
        return self.shared + sum(self.each.values())


def expected(
    facts: Facts, costs: dict[str, float], tokens: float, answers: int, seeds: int, speed: float
) -> Expected:
    """About how long it takes.

    Args:
        facts: of pair and data.
        costs: of methods relative to SFT.
        tokens: trained response tokens of each.
        answers: that are asked of every model in the end: test rows times decoding seeds.
        seeds: training seeds.
        speed: of `speed_of`.
    """
    dev = min(DEV_ROWS, max(1, facts.rows // 10)) * (EVALUATIONS + 1)
    asked = _answering(facts.student, answers + dev, facts, speed)
    first = _training(facts, facts.answers.mean * min(facts.rows, PASSES[0][0]), speed)
    references = _answering(facts.teacher, answers, facts, speed) + 2 * asked
    train = _training(facts, tokens, speed)
    each = {name: seeds * (cost * train + asked + START_S) for name, cost in costs.items()}
    return Expected(first * seeds + references, each)


def tokens_of(
    budget: Budget | None,
    facts: Facts,
    costs: dict[str, float],
    answers: int,
    seeds: int,
    speed: float,
) -> int | None:
    """Trained response tokens of every method that a budget allows; None: as suite ``own`` says.

    Raises:
        InputError: a time in which nothing can be trained.
    """
    if budget is None:
        return None
    if budget.kind == "tokens":
        return max(1, round(budget.amount))
    whole = facts.rows * facts.answers.mean
    if budget.kind == "passes":
        return max(1, round(budget.amount * whole))
    least = expected(facts, costs, 0.0, answers, seeds, speed).total
    left = budget.amount - least
    tokens = left / (seeds * sum(costs.values()) * _training(facts, 1.0, speed))
    if tokens < whole / 20:
        raise InputError(
            f"--budget of {budget.amount / 60:.0f} minutes: init, references and answers of {len(costs)} "
            f"methods alone take about {least / 60:.0f} on this machine; give more, fewer methods, or a "
            "smaller --eval file"
        )
    return round(tokens)


def memory_gb(
    pair: tuple[str, str], cards: Mapping[str, "Card"], suite: Mapping[str, Any], facts: Facts
) -> tuple[float, str] | None:
    """Peak memory of the neediest training by `kdbench.harness.plan`, in GB, and which method's it is.

    None where the planner does not know the kind of model.

    Args:
        pair: teacher and student as named.
        cards: of the methods.
        suite: its settings.
        facts: of pair and data.
    """
    recipe = TrainConfig(**suite["train"])
    precision: Precision = "fp32" if facts.device == "cpu" else "bf16"
    auto = {"precision": precision, "sample_precision": precision}
    machine = CPU if facts.device == "cpu" else Machine(name="cuda", memory_gb=80.0)
    prompts, answers = facts.prompts, facts.answers
    longest = prompts.longest + answers.longest
    lengths = Lengths(prompt=prompts.mean, response=answers.mean, text=1.0, longest=longest)
    found = []
    try:
        teacher = find_shape(pair[0])
        student = find_shape(pair[1], teacher)
    except InputError:
        return None
    for name, card in cards.items():
        job = Job(
            student=student,
            teacher=teacher if card.teacher_logits or card.teacher_samples else None,
            recipe=recipe.model_copy(update=auto),
            work=work_of(name, _options(name, suite), card),
            lengths=lengths,
            decode_rows=suite["generate"]["batch_size"],
            machine=machine,
        )
        found.append((highest(job) / 1e9, name))
    return max(found)


def _options(name: str, suite: Mapping[str, Any]) -> dict[str, Any]:
    """A method's own fields under the suite; it has no plain text, so none is read for a loss."""
    options = find_method(name).method.Config().model_dump()
    own = (suite.get("methods") or {}).get(name) or {}
    return options | own.get("method", {}) | ({"lm_coef": 0.0} if "lm_coef" in options else {})
