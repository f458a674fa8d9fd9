"""What every probe is given, and the estimates that their reports are made of."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from kdbench.harness import stats
from kdbench.harness.data.tokens import encode
from kdbench.harness.files.records import Estimate, Missing, ModelRef
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.probes import PROBES
from kdbench.harness.progress import StageLine
from kdbench.harness.questions import PreparedTask
from kdbench.harness.text_model import TextModel
from kdbench.trainers.types import Decoding
from kdbench.trainers.types import Sequence as Tokens

Array = NDArray[np.float64]
Report = dict[str, Any]
"""``{metric: estimate or Missing}`` and details, as stored in ``probe-<name>.json``."""

DIGITS = 6
SEED = 0
"""What a deterministic evaluation lists as its decoding seed."""
REFERENCE_TOKENS = 256
"""A longer reference is cut there, as LMOps minillm's evaluation does for ``lm_loss``."""


class Teacher(NamedTuple):
    """What a model may be compared with, and how to load it."""

    card: ModelRef
    load: Callable[[], TextModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a probe measures, and what it works with.

    Attributes:
        load: gives the model, loaded when first called; None for the truth, which has answers only.
        teacher: what the model may be compared with.
        decoding: decoding seed -> how a probe samples: as the evaluation does, but from the model's own
            distribution (temperature 1, nothing cut off), of which what is measured is defined.
        seed: decoding seed of answers that a probe samples itself.
        samples: how many of them a prompt; None: each probe's own number.
        first: whether this is the task for what is measured on one task alone.
        evaluation: what is stored of it; a probe may keep parts of its work there.
        stage: (title, prompts) -> a progress line that counts prompts.
        stored: to be called after each part that is kept, so that a kill does not lose what it cost.
    """

    load: Callable[[], TextModel] | None
    teacher: Teacher | None
    decoding: Callable[[int], Decoding]
    seed: int
    samples: int | None
    first: bool
    evaluation: Evaluation
    stage: Callable[[str, int], AbstractContextManager[StageLine]]
    stored: Callable[[], None] = lambda: None

    def model(self) -> TextModel:
        """The model, which must be there."""
        assert self.load is not None
        return self.load()


class Probe(Protocol):
    """A probe's module."""

    def settings(self, subject: Subject, prompts: PreparedTask) -> Report | None:
        """What the numbers depend on beyond task and model; None where there is nothing to measure.

        Another value makes the probe measure again.
        """

    def measure(self, subject: Subject, prompts: PreparedTask, settings: Report) -> Report:
        """Measures a model on a task's prompts."""


def find_probe(name: str) -> Probe:
    """A probe by its name in `PROBES`."""
    return cast(Probe, import_module(PROBES[name].module))


def reference_sequences(model: TextModel, prompts: PreparedTask) -> list[Tokens]:
    """Each prompt with its first reference as the answer, end token included, as far as the model reads."""
    references = encode(model.tokenizer, [doc.references[0] for doc in prompts.docs])
    return [
        Tokens(
            doc.ids,
            (*reference, model.end_id)[: min(REFERENCE_TOKENS, model.max_length - len(doc.ids))],
        )
        for doc, reference in zip(prompts.docs, references, strict=True)
    ]


def of_itself(decoding: Decoding) -> Decoding:
    """Sampling from a model's own distribution, as the definitions of exposure bias and of divergences from
    samples want it, with the limits and rules of an evaluation.
    """
    return replace(decoding, temperature=1.0, top_p=1.0, top_k=0)


def mean_estimate(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean over prompts with its interval; prompts without a value are left out and not counted."""
    there = [value for value in values if value is not None]
    if not there:
        return Missing(missing="no prompt has a value").model_dump()
    mean, low, high = stats.bootstrap(np.array(there))
    return estimate(mean, low, high, len(there))


def estimate(mean: float, low: float, high: float, prompts: int) -> dict[str, Any]:
    """An `Estimate` of something without a decoding seed."""
    return Estimate(
        mean=mean,
        low=round(low, DIGITS),
        high=round(high, DIGITS),
        n_prompts=prompts,
        seeds=[SEED],
        per_seed=[mean],
    ).model_dump()
