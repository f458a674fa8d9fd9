"""Whether a method can train this pair: its first steps, on stand-ins and a few shortened rows."""

import tempfile
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.config import TrainConfig
from kdbench.harness.errors import CellFailed, InputError
from kdbench.harness.preflight.finding import Finding
from kdbench.trainers.alignment import Twins
from kdbench.trainers.assemble import Parts, assemble
from kdbench.trainers.loop import Loop
from kdbench.trainers.lora.merging import Adapted
from kdbench.trainers.method import Method
from kdbench.trainers.models import vocabulary
from kdbench.trainers.types import Sequence

ROWS = 4
PROMPT, RESPONSE = 12, 4  # tokens: what is sampled on the way must cost little
STEPS = 4  # of which all but the last are taken, so that nothing is written


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A training as small as it can be.

    Attributes:
        name: of the method.
        method: makes a fresh instance.
        recipe: the run's.
        student, teacher: make models that compute as the run's do, float32 and in the run's precision.
        tokenizer: the student's.
        twins: what writes its rows in the tokens of a teacher with a tokenizer of its own, or None.
        end_id: what ends a response.
        shared: ids that both tokenizers have, or None.
        train, text: rows of the run.
        accelerator: of one process.
    """

    name: str
    method: Callable[[], Method]
    recipe: TrainConfig
    student: Callable[[], PreTrainedModel]
    teacher: Callable[[], PreTrainedModel] | None
    tokenizer: PreTrainedTokenizerBase
    twins: Callable[[], Twins] | None
    end_id: int
    shared: int | None
    train: Seq[Sequence]
    text: Seq[Sequence]
    accelerator: Accelerator


def check(rehearsal: Rehearsal) -> Iterator[Finding]:
    """Three steps, up to half of the budget, optimiser included."""
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as scratch:
        loop = assembled(rehearsal, Path(scratch))
        if loop.adapted is not None:
            refuse_bypassed(loop.adapted)
        losses = []
        loop.show = lambda state, row: losses.append(row.loss)
        try:
            for _ in range(STEPS - 1):
                loop._step()
        except CellFailed as error:
            yield Finding("method", f"{rehearsal.name} on a stand-in of the pair: {error}", "warn")
            return
        finally:
            rehearsal.accelerator.free_memory()
    yield Finding("method", f"{rehearsal.name} takes its steps, loss {losses[0]:.3g} at first")


def refuse_bypassed(adapted: Adapted) -> None:
    """Raises InputError if a model reads some layers past their adapters."""
    if not adapted.agrees():
        raise InputError(
            f"LoRA on {', '.join(adapted.lora.targets)} of {type(adapted.model).__name__} does not "
            "compute what its merged weights do, since some layers are read past their adapters; choose "
            "other train.lora.targets"
        )


def assembled(rehearsal: Rehearsal, out: Path) -> Loop:
    """The loop over shortened rows."""
    student = rehearsal.student()
    teacher = rehearsal.teacher() if rehearsal.teacher else None
    twins = rehearsal.twins() if teacher is not None and rehearsal.twins else None
    alike = [student] if teacher is None or twins is not None else [student, teacher]
    known = vocabulary(rehearsal.tokenizer, *alike, end=rehearsal.end_id, size=rehearsal.shared)
    other = None if twins is None or teacher is None else vocabulary(twins.teacher, teacher).size
    return assemble(
        Parts(
            recipe=_short(rehearsal.recipe),
            method=rehearsal.method(),
            student=student,
            teacher=teacher,
            vocabulary=known,
            teacher_vocab=other,
            twin=twins,
            tokenizer=rehearsal.tokenizer,
            train=[_cut(s, rehearsal.end_id) for s in rehearsal.train[: 2 * ROWS]],
            text=[replace(s, response=s.response[:PROMPT]) for s in rehearsal.text[: 2 * ROWS]],
            answers=out / "answers.jsonl",
            decode_rows=32,
            decode_chunk=64,
            out=out,
            accelerator=rehearsal.accelerator,
        )
    )


def _short(recipe: TrainConfig) -> TrainConfig:
    changes = {
        "steps": STEPS,
        "epochs": None,
        "response_tokens": None,
        "batch_size": min(recipe.batch_size, ROWS),
        "warmup": 0,
        "max_prompt": min(recipe.max_prompt, PROMPT),
        "max_length": min(recipe.max_prompt, PROMPT) + RESPONSE,
        "eval_every": 0,
        "select": "last",
        "save_every": STEPS,
    }
    return recipe.model_copy(update=changes)


def _cut(sequence: Sequence, end_id: int) -> Sequence:
    response = (*sequence.response[: RESPONSE - 1], end_id)
    return replace(sequence, prompt=sequence.prompt[-PROMPT:], response=response)
