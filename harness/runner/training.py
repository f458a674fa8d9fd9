"""One training in one folder: teacher, init and student are all made by this."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness import launch
from kdbench.harness.config import TrainConfig
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import TrainRow
from kdbench.harness.files.run_folder import Training
from kdbench.harness.method_files import blaming_method
from kdbench.harness.metrics import MOST_UNMEASURED
from kdbench.harness.runner.data import TrainingData, check_twins
from kdbench.harness.runner.disk import check_disk
from kdbench.harness.runner.endpoint import EndpointTeacher
from kdbench.harness.runner.planned import planned_mb, resident_mb
from kdbench.harness.session import Session
from kdbench.harness.settings import EngineName
from kdbench.tasks.scoring import TextScorer, unread
from kdbench.tasks.words import Tokenizer, reads
from kdbench.trainers.alignment import Twins
from kdbench.trainers.assemble import Parts, assemble
from kdbench.trainers.checkpoint import drop_checkpoints
from kdbench.trainers.devices import forget_peak, sampling_dtype
from kdbench.trainers.loop import Loop, State
from kdbench.trainers.lora.adapters import Base, parameters_in
from kdbench.trainers.method import Method
from kdbench.trainers.models import Vocabulary, vocabulary
from kdbench.trainers.parallel.loading import Unread, find_unread
from kdbench.trainers.parallel.ranks import together
from kdbench.trainers.store.states import StoredStates
from kdbench.trainers.types import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train.

    Attributes:
        name: shown in progress lines.
        method: fresh instance.
        training: budget, rates and limits.
        student: loads the model to train in the given dtype.
        base: names that model by content.
        teacher: loads the frozen teacher in the given dtype, or None.
        student_ref, teacher_ref: folders that these load, if so; of what is shared among processes
            each then reads its part only.
        stored: what it gives, if that is read from disk; ``teacher`` then loads its shapes only.
        stored_as: what the marker says of that.
        away: the teacher, if it is asked over the network for answers.
        tokenizer: the student's.
        shared: ids that student and teacher share, if that is not all of the student's.
        twins: makes what gives sequences their twin, for a teacher with a tokenizer of its own.
        engine: who decodes: our sampler, or vLLM.
        rouge_tokenizer: what a word of ROUGE-L is, where that selects the step.
        data: token ids.
        teacher_samples: file in which teacher answers to the training prompts are shared.
        out: folder of the training; see `kdbench.trainers.loop`.
        told: who else is told of each logged step.
    """

    name: str
    method: Method
    training: TrainConfig
    student: Callable[[torch.dtype], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    data: TrainingData
    out: Training
    base: str = ""
    teacher: Callable[[torch.dtype], PreTrainedModel] | None = None
    student_ref: str = ""
    teacher_ref: str = ""
    stored: StoredStates | None = None
    stored_as: dict[str, Any] = field(default_factory=dict)
    teacher_samples: Path | None = None
    away: EndpointTeacher | None = None
    shared: int | None = None
    twins: Callable[[], Twins] | None = None
    rouge_tokenizer: Tokenizer = "rouge"
    engine: EngineName = "own"
    told: Callable[[TrainRow], None] = lambda row: None


FALLBACK: Final = "min:dev_loss"
"""What selects the step where ROUGE-L is asked to and cannot measure the development set."""


def fallback(job: Job) -> str:
    """Why `FALLBACK` selects instead of ROUGE-L; empty where what is configured does.

    It depends on the references only, so it holds for the whole training.
    """
    rows = job.data.dev_references
    if job.training.select != "max:dev_rouge_l" or not rows:
        return ""
    reads_it = reads(job.rouge_tokenizer)
    unreadable = [texts for texts in rows if not any(map(reads_it, texts))]
    if len(unreadable) <= MOST_UNMEASURED * len(rows):
        return ""
    return (
        f"{FALLBACK} instead of {job.training.select}: ROUGE-L cannot measure {len(unreadable)} of "
        f"{len(rows)} development rows: {unread(job.rouge_tokenizer, unreadable[0])}"
    )


def train(session: Session, job: Job) -> dict[str, Any]:
    """Runs or continues a training; returns what its marker says (step counts, evaluations, cost).

    A finished one is not repeated. Optimiser state and best weights go once the marker stands: a
    kill before it resumes from them, a kill after it leaves them to the next call.
    """
    stage = job.out.stage
    if not session.of_main(stage.done):
        if why := fallback(job):
            session.progress.say(f"note: {job.name}: the student is selected by {why}")
            job = replace(job, training=job.training.model_copy(update={"select": FALLBACK}))
        accelerator = session.accelerator(job.training)
        with blaming_method(job.method):
            state, planned = _run(session, job)
        accelerator.free_memory()  # student, teacher and optimiser would stay until the command ends
        if session.is_main:
            info = {
                "best_step": state.best_step,
                "selection": why,
                "steps": state.step,
                "evaluations": state.evaluations,
                "tokens": state.tokens,
                "processes": state.processes,
                "wall_s": state.wall_s,
                "peak_mb": session.peak_mb(),
                "planned_mb": planned,
            }
            if job.stored_as:
                info["teacher_store"] = job.stored_as
            if job.away is not None:
                info["endpoint"] = job.away.spent()
            if job.engine != "own":
                info["engine"] = {"name": job.engine, "compared": session.compared}
            if job.training.lora:
                info["trained_parameters"] = parameters_in(job.out.adapter)
            stage.mark(_outputs(job.out, adapter=job.training.lora is not None), info)
        accelerator.wait_for_everyone()
    if session.is_main:
        drop_checkpoints(job.out.path)
    return stage.info()


def _outputs(out: Training, *, adapter: bool) -> list[Path]:
    """What a finished training left."""
    folders = [out.adapter, out.student] if adapter else [out.student]
    return [p for folder in folders for p in sorted(folder.iterdir()) if p.is_file()]


def _run(session: Session, job: Job) -> tuple[State, float]:
    """Trains to the end of the budget, showing progress; also says what was planned, see `planned_mb`."""
    forget_peak(session.device)
    before = resident_mb()
    loop = assembled(session, job)
    planned = planned_mb(loop, job.training, session.config.generate.batch_size, before)
    learning = sum(p.numel() for p in loop.module.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in loop.student.parameters())
    session.of_main(lambda: check_disk(job.out.path, learning, whole))
    total = None if job.training.response_tokens else loop.steps  # tokens may end it at any step
    with session.progress.stage(f"train {job.name}", total) as live:

        def show(state: State, row: TrainRow) -> None:
            tokens = state.tokens.get("student", 0)
            live.update(state.step, loss=row.loss, tokens=tokens, **row.evaluation)
            job.told(row)
            if session.meanwhile is not None:
                session.meanwhile()

        loop.show = show
        loop.resumed = lambda state: live.resumed(state.step, state.tokens.get("student", 0))
        return loop.run(), planned


def assembled(session: Session, job: Job) -> Loop:
    """The training, ready to run, its models loaded."""
    dtype = sampling_dtype(job.training.precision)
    # what is frozen needs no more precision than it is used in
    learning = dtype if job.training.lora else torch.float32
    parallel, several = session.config.parallel, launch.world() > 1
    shared = several and parallel.shard == "fsdp2"
    student, empty = _loaded(job.student, job.student_ref if shared else "", learning)
    teacher = None
    if job.teacher is not None:
        shared = several and parallel.teacher == "sharded" and job.stored is None
        teacher, more = _loaded(job.teacher, job.teacher_ref if shared else "", dtype)
        empty += more
    return assemble(replace(parts_of(session, job, student, teacher), unread=empty))


def _loaded(
    load: Callable[[torch.dtype], PreTrainedModel], ref: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, list[Unread]]:
    """A model, and where its values lie if they are read once it is shared; ``ref`` is empty if not."""
    found = together(lambda: find_unread(ref, dtype=dtype)) if ref else None
    return (load(dtype), []) if found is None else (found.model, [found])


def parts_of(
    session: Session, job: Job, student: PreTrainedModel, teacher: PreTrainedModel | None
) -> Parts:
    """What a training is assembled of, with these models."""
    twins, teacher_vocab, alike = None, None, [student]
    if teacher is not None and job.twins is not None:
        twins = job.twins()
        check_twins(twins, job.data.train, teacher)
        teacher_vocab = vocabulary(twins.teacher, teacher).size
    elif teacher is not None:
        alike.append(teacher)
    words = vocabulary(job.tokenizer, *alike, end=job.data.end_id, size=job.shared)
    check_ids(job.data, job.tokenizer, words.size)
    say_ends(student, words)

    scorer = TextScorer(job.rouge_tokenizer)

    def rouge(answers: list[Answer]) -> float:
        said = [words.said(answer.ids) for answer in answers]
        texts = job.tokenizer.batch_decode(said, skip_special_tokens=True)
        values = scorer.rouge_l(texts, job.data.dev_references)
        measured = [value for value in values if not isinstance(value, str)]
        return sum(measured) / len(measured)

    return Parts(
        recipe=job.training,
        method=job.method,
        student=student,
        base=Base(load=partial(job.student, torch.float32), name=job.base),
        teacher=teacher,
        stored=job.stored,
        ask=job.away,
        vocabulary=words,
        teacher_vocab=teacher_vocab,
        twin=twins,
        tokenizer=job.tokenizer,
        train=job.data.train,
        prompts=job.data.prompts,
        text=job.data.text,
        dev=job.data.dev,
        dev_score=rouge,
        answers=job.teacher_samples or job.out.path / "unused.jsonl",
        say=session.progress.say,
        engine=job.engine,
        compared=session.note_comparison,
        decode_rows=session.config.generate.batch_size,
        decode_chunk=session.config.generate.chunk,
        out=job.out.place(),
        accelerator=session.accelerator(job.training),
        parallel=session.config.parallel,
    )


def check_ids(data: TrainingData, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Refuses rows with tokens that one of the models does not have.

    Raises:
        InputError: names the token.
    """
    rows = [*data.train, *data.dev, *data.text]
    largest = max(max((*row.prompt, *row.response), default=0) for row in rows)
    if largest >= size:
        raise InputError(
            f"the data has the token {tokenizer.convert_ids_to_tokens(largest)!r} of the student's "
            "tokenizer, for which student or teacher have no place; remove it from the data, or choose "
            "another pair"
        )


def say_ends(model: PreTrainedModel, words: Vocabulary) -> None:
    """Has a model's generation configuration name the tokens that its training answers end with.

    All of them: an answer of the teacher may end with another than a row of the data.
    """
    config = model.generation_config
    if config is None:
        return
    named = config.eos_token_id
    known = named if isinstance(named, list) else [named]
    if not set(words.eos_ids) <= set(known):
        config.eos_token_id = list(words.eos_ids)
        # else transformers would not write what else its file says (a temperature, but no do_sample)
        config._original_object_hash = hash(config)
