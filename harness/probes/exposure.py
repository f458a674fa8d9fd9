"""Exposure bias of a student against a teacher, resumable a group of prompts at a time.

Contexts are sampled by the one sampler, from both models with the same decoding and the same noise:
common random numbers, which make the difference R - L eps less noisy and leave each mean as it is.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kdbench.harness import stats
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record
from kdbench.harness.files.store import append_rows, keep_batches, read_records
from kdbench.harness.identity import digest, model_id
from kdbench.harness.probes import sampling
from kdbench.harness.probes.subject import DIGITS, Array, Report, Subject
from kdbench.harness.questions import PreparedTask, PromptDoc
from kdbench.harness.text_model import TextModel
from kdbench.tasks.protocols import Protocol
from kdbench.trainers.engine import in_process
from kdbench.trainers.exposure import SMALLEST, curves, excess, prompt_errors, token_errors
from kdbench.trainers.models import compare
from kdbench.trainers.types import Decoding, Prompt
from kdbench.trainers.types import Sequence as Tokens


class ContextRow(Record):
    """One prompt's mean errors by place, on contexts of one model; 0 beyond the last of them."""

    doc_id: int
    prompt_hash: str
    errors: list[float]
    tokens: int


def settings(subject: Subject, prompts: PreparedTask) -> Report | None:
    """See `kdbench.harness.probes.subject.Probe`. Measured on one task of an evaluation only."""
    if subject.load is None or subject.teacher is None or not subject.first:
        return None
    return {
        "teacher": model_id(subject.teacher.card),
        "protocol": prompts.protocol.name,
        **sampling("exposure", subject.samples, prompts.protocol, subject.seed),
    }


def measure(subject: Subject, prompts: PreparedTask, settings: Report) -> Report:
    """R, L eps and ExAccErr with their intervals, place by place."""
    assert subject.teacher is not None
    student, teacher, protocol = subject.model(), subject.teacher.load(), prompts.protocol
    refuse_unlike(student, teacher)
    decoding = subject.decoding(settings["seed"])
    part = digest(settings)[:8]
    tables = []
    for who, writer in (("student", student), ("teacher", teacher)):
        with subject.stage(f"errors on {who} contexts", len(prompts.docs)) as live:
            rows = context_errors(
                writer,
                student,
                teacher,
                prompts.docs,
                path=subject.evaluation.part(f"exposure.{part}.{who}.jsonl"),
                protocol=protocol,
                decoding=decoding,
                samples=settings["samples"],
                on_progress=live.update,
                on_stored=subject.stored,
            )
        skipped = 0 if protocol.exposure_first_token else 1
        tables.append(table(rows, max(1, decoding.max_new_tokens - skipped)))
    return settings | {
        "teacher_name": subject.teacher.card.name,
        "first_token": "scored" if protocol.exposure_first_token else "skipped",
        "average": (
            "over samples still running + 1e-3"
            if protocol.exposure_count_offset
            else "over all samples, ended ones as 0"
        ),
        **exposure_curves(*tables),
    }


def refuse_unlike(student: TextModel, teacher: TextModel) -> None:
    """Raises InputError unless both predict the same tokens."""
    found = compare(student.tokenizer, teacher.tokenizer)
    sizes = [model.engine.vocabulary.size for model in (student, teacher)]
    # added tokens that neither model has a place for are shared by tokenizers only
    if len({*sizes}) > 1 or sizes[0] > found.shared:
        said = (
            found.said or f"the student has a place for {sizes[0]} ids, the teacher for {sizes[1]}"
        )
        raise InputError(
            "exposure bias compares student and teacher token by token, but their tokenizers "
            f"differ ({said}); give a teacher with the student's tokenizer, or leave exposure "
            "out of --probes"
        )


def context_errors(
    writer: TextModel,
    student: TextModel,
    teacher: TextModel,
    docs: Sequence[PromptDoc],
    *,
    path: Path,
    protocol: Protocol,
    decoding: Decoding,
    samples: int,
    on_progress: Callable[[int], None] | None = None,
    on_stored: Callable[[], None] = lambda: None,
) -> list[ContextRow]:
    """D(teacher | student) on contexts that ``writer`` samples; continues what ``path`` holds.

    Args:
        writer: who writes the contexts: the student for R, the teacher for L eps.
        student: the model whose errors are measured.
        teacher: the model they are measured against.
        docs: prompts in order.
        path: JSONL of `ContextRow`, appended a group of prompts at a time.
        protocol: whether the first token counts and how samples are averaged.
        decoding: sampling settings, seed included.
        samples: answers a prompt.
        on_progress: called with the number of prompts done.
        on_stored: called after each group.
    """
    group = max(1, writer.engine.chunk // samples)
    rows = _stored(path, docs, group)
    for start in range(len(rows), len(docs), group):
        part = docs[start : start + group]
        prompts = [Prompt(doc.ids, doc.key, sample) for doc in part for sample in range(samples)]
        (answers,) = writer.engine.answers(prompts, decoding, chunk=len(prompts))
        sequences = [Tokens(p.ids, a.ids) for p, a in zip(prompts, answers, strict=True)]
        errors = sequence_errors(student, teacher, sequences)
        new = [
            ContextRow(
                doc_id=doc.doc_id,
                prompt_hash=doc.prompt_hash,
                errors=averaged(errors[n : n + samples], protocol).tolist(),
                tokens=sum(len(a.ids) for a in answers[n : n + samples]),
            )
            for n, doc in zip(range(0, len(answers), samples), part, strict=True)
        ]
        append_rows(path, new)
        on_stored()
        rows += new
        if on_progress:
            on_progress(len(rows))
    return rows


def sequence_errors(
    student: TextModel, teacher: TextModel, sequences: Sequence[Tokens]
) -> list[Tensor]:
    """D(teacher | student) at every response token, one float32 CPU tensor a sequence."""
    one, other = (in_process(side.engine, "exposure bias") for side in (student, teacher))
    tiles = zip(one.logit_tiles(sequences), other.logit_tiles(sequences), strict=True)
    errors = [token_errors(q_nV, p_nV).float().cpu() for q_nV, p_nV in tiles]
    return list(torch.cat([*errors, torch.zeros(0)]).split([s.targets for s in sequences]))


def averaged(errors: Sequence[Tensor], protocol: Protocol) -> Array:
    """A prompt's mean error at each place under a protocol, as long as its longest sample.

    `minillm-compat` begins at the second token, and averages over samples still running.
    """
    scored = [e if protocol.exposure_first_token else e[1:] for e in errors]
    values_ST = pad_sequence(scored, batch_first=True)
    mask_ST = pad_sequence([torch.ones_like(e) for e in scored], batch_first=True)
    return prompt_errors(values_ST, mask_ST, live_offset=protocol.exposure_count_offset or None)


def table(rows: Sequence[ContextRow], width: int) -> Array:
    """Errors of all prompts, (P, width)."""
    errors_PT = np.zeros((len(rows), width))
    for place, row in zip(errors_PT, rows, strict=True):
        place[: len(row.errors)] = row.errors[:width]
    return errors_PT


def _stored(path: Path, docs: Sequence[PromptDoc], group: int) -> list[ContextRow]:
    rows = read_records(path, ContextRow)
    if len(rows) > len(docs) or any(
        row.prompt_hash != doc.prompt_hash for row, doc in zip(rows, docs, strict=False)
    ):
        raise InputError(f"{path} holds errors of other prompts than this evaluation's; move it")
    return keep_batches(path, rows, len(docs), group)


# -- curves and their intervals


def exposure_curves(student_PT: Array, teacher_PT: Array) -> Report:
    """R, L·eps, eps and ExAccErr at each L = 1 … T, each with its interval over prompts.

    ``ex_acc_err`` is None where eps is 0 to rounding, and ``undefined`` then says so.
    """
    prompts, length = student_PT.shape
    found = curves(student_PT, teacher_PT)
    both = np.concatenate([student_PT.cumsum(axis=1), teacher_PT.cumsum(axis=1)], axis=1)
    means_RT = stats.resampled_means(both) if prompts > 1 else both
    R, L_eps = means_RT[:, :length], means_RT[:, length:]
    places = np.arange(1, length + 1)
    shown = {
        "R": _curve(found.R_T, R, prompts),
        "L_eps": _curve(found.L_eps_T, L_eps, prompts),
        "eps": _curve(found.L_eps_T / places, L_eps / places, prompts),
        "difference": _curve(found.R_T - found.L_eps_T, R - L_eps, prompts),
        "ex_acc_err": _curve(found.excess_T, excess(R, L_eps), prompts),
    }
    last = {name: {bound: c[-1] for bound, c in curve.items()} for name, curve in shown.items()}
    report = {"prompts": prompts, "length": length, "at_length": last, **shown}
    if undefined := int(np.isnan(found.excess_T).sum()):
        report["undefined"] = (
            f"eps is 0 (below {SMALLEST:g} nats a token) at {undefined} of {length} places: the "
            "student makes no error on teacher contexts, so the ratio has no value"
        )
    return report


def _curve(value_T: Array, resampled_RT: Array, prompts: int) -> dict[str, list[float | None]]:
    bounds = stats.percentiles(resampled_RT, prompts) if prompts > 1 else (value_T, value_T)
    return {
        name: [round(float(v), DIGITS) if math.isfinite(v) else None for v in values_T]
        for name, values_T in zip(("value", "low", "high"), (value_T, *bounds), strict=True)
    }
