"""One training in one folder: teacher, init and student are all made by this."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.config import TrainConfig
from kdbench.harness.files.records import TrainRow
from kdbench.harness.files.run_folder import Training
from kdbench.harness.runner.data import TrainingData
from kdbench.harness.session import Session
from kdbench.tasks.scoring import rouge_l
from kdbench.trainers.alignment import Twins
from kdbench.trainers.devices import sampling_dtype
from kdbench.trainers.engine import LoadedModel, Rollouts, Scorer, reference_loss
from kdbench.trainers.head.head import Head, head_of
from kdbench.trainers.loop import Loop, LoopSettings, State, Trained
from kdbench.trainers.method import Context, Method, as_prompts
from kdbench.trainers.micro_batch import TeacherSide
from kdbench.trainers.models import Vocabulary, vocabulary
from kdbench.trainers.packing import Layout, is_packable
from kdbench.trainers.teacher_answers import TeacherAnswers
from kdbench.trainers.teacher_memory import TeacherMemory, lend_memory
from kdbench.trainers.types import Answer, Decoding, Prompt

DEV_SEED = 10
SAMPLING_SEED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train.

    Attributes:
        name: shown in progress lines.
        method: fresh instance.
        training: budget, rates and limits.
        student: loads the model to train (float32).
        teacher: loads the frozen teacher in the given dtype, or None.
        tokenizer: the student's.
        teacher_tokenizer: the teacher's, if it is another one.
        data: token ids.
        teacher_samples: file in which teacher answers to the training prompts are shared.
        out: folder of the training; see `kdbench.trainers.loop`.
    """

    name: str
    method: Method
    training: TrainConfig
    student: Callable[[], PreTrainedModel]
    teacher: Callable[[torch.dtype], PreTrainedModel] | None
    tokenizer: PreTrainedTokenizerBase
    data: TrainingData
    teacher_samples: Path
    out: Training
    teacher_tokenizer: PreTrainedTokenizerBase | None = None


def train(session: Session, job: Job) -> dict[str, Any]:
    """Runs or continues a training; returns what its marker says (step counts, evaluations, cost).

    A finished one is not repeated.
    """
    if not job.out.stage.done():
        trained = _Training(session, job).run()
        # student, teacher and optimiser would otherwise stay in memory until the command ends
        session.accelerator(job.training).free_memory()
        if session.is_main:
            info = {
                "best_step": trained.best_step,
                "steps": trained.steps,
                "evaluations": {str(k): v for k, v in trained.evaluations.items()},
                "tokens": trained.tokens,
                "wall_s": trained.wall_s,
            }
            job.out.stage.mark(sorted(p for p in job.out.student.iterdir() if p.is_file()), info)
        session.accelerator(job.training).wait_for_everyone()
    return job.out.stage.info()


class _Training:
    """The objects of one training, wired together."""

    def __init__(self, session: Session, job: Job) -> None:
        self.session = session
        self.job = job
        training = job.training
        self.accelerator = session.accelerator(training)
        device = self.accelerator.device
        dtype = sampling_dtype(training.precision)
        student = job.student().to(device)
        self.student = student.double() if training.precision == "fp64" else student
        self.teacher = job.teacher(dtype).to(device) if job.teacher else None
        models = [m for m in (self.student, self.teacher) if m is not None]
        foreign = job.teacher_tokenizer if self.teacher is not None else None
        self.vocab: Vocabulary = vocabulary(
            job.tokenizer, *(models if foreign is None else [self.student])
        )
        self.teacher_vocab = (
            self.vocab if foreign is None else vocabulary(foreign, *models[1:])
        ).size
        self.twins = None if foreign is None else Twins(job.tokenizer, foreign)
        self.layout = Layout(
            # on a CPU rows cost nothing by being long (attention goes by sequence), so one row
            row=training.micro_tokens if device.type == "cpu" else training.max_length,
            pad_id=self.vocab.pad_id,
            packed=all(is_packable(m, min(self.vocab.size, self.teacher_vocab)) for m in models),
            device=device,
        )
        self.teacher_side = None
        if self.teacher is not None:
            head = head_of(self.teacher, self.teacher_vocab)
            alike = self.twins is None
            self.teacher_side = teacher_side(self.teacher, head, self.layout, training, alike=alike)
        self.meter: Counter[str] = Counter()
        generate = session.config.generate
        self.engine = LoadedModel(
            model=self.student,
            vocabulary=self.vocab,
            batch_size=generate.batch_size,
            chunk=generate.chunk,
            sampling_dtype=sampling_dtype(training.sample_precision),
            layout=self.layout,
            micro_tokens=training.micro_tokens,
            autocast=self.accelerator.autocast,
        )
        side = self.teacher_side
        self.teacher_engine = (
            replace(self.engine, model=side.model, read=side.hidden) if side else None
        )
        self.rollouts = Rollouts(
            student=self.engine,
            teacher=self.teacher_engine,
            accelerator=self.accelerator,
            meter=self.meter,
        )
        self.decoding = Decoding(max_new_tokens=training.max_response)

    def run(self) -> Trained:
        """Trains to the end of the budget."""
        job, training = self.job, self.job.training
        ctx = Context(
            train=job.data.train,
            text=job.data.text,
            batch_size=training.batch_size,
            seed=training.seed,
            vocab=self.vocab.size,
            eos_id=self.vocab.eos_ids[0],
            decoding=self.decoding,
            answer=self.rollouts,
            teacher_answers=TeacherAnswers(
                job.data.train,
                job.teacher_samples,
                self._sample_teacher,
                writes=self.session.is_main,
            ).pick,
            lookahead=max(1, self.engine.chunk // training.batch_size),
            score=Scorer(student=self.engine, teacher=self.teacher_engine, meter=self.meter),
            meter=self.meter,
            twin=self.twins,
        )
        memory = self.teacher_side.memory if self.teacher_side else None
        if memory is not None:
            lend_memory(ctx, memory, self.accelerator.num_processes)
        steps = self._steps()
        total = None if training.response_tokens else steps  # tokens may end it at any step
        with self.session.progress.stage(f"train {job.name}", total) as live:

            def show(state: State, row: TrainRow) -> None:
                tokens = state.tokens.get("student", 0)
                live.update(state.step, loss=row.loss, tokens=tokens, **row.evaluation)

            loop = Loop(
                self._settings(steps),
                method=job.method,
                ctx=ctx,
                student=self.student,
                tokenizer=job.tokenizer,
                teacher=self.teacher_side,
                layout=self.layout,
                evaluator=self._evaluate if job.data.dev else None,
                out=job.out.path,
                accelerator=self.accelerator,
                progress=show,
            )
            return loop.run()

    def _steps(self) -> int | None:
        training = self.job.training
        per_epoch = math.ceil(len(self.job.data.train) / training.batch_size)
        limits = [training.steps]
        if training.epochs is not None:
            limits.append(max(1, round(training.epochs * per_epoch)))
        known = [s for s in limits if s is not None]
        return min(known) if known else None

    def _settings(self, steps: int | None) -> LoopSettings:
        training = self.job.training
        per_epoch = math.ceil(len(self.job.data.train) / training.batch_size)
        return LoopSettings(
            steps=steps,
            response_tokens=training.response_tokens,
            lr=training.lr,
            warmup_steps=training.warmup,
            schedule=training.schedule,
            lr_floor=training.lr_floor,
            betas=training.betas,
            weight_decay=training.weight_decay,
            clip=training.clip,
            micro_tokens=training.micro_tokens,
            dropout=training.dropout,
            eval_every=per_epoch if training.eval_every == "epoch" else training.eval_every,
            save_every=training.save_every,
            select=training.select if self.job.data.dev else "last",
            seed=training.seed,
        )

    # -- services ------------------------------------------------------------------------------

    def _evaluate(self, model: PreTrainedModel, step: int) -> dict[str, float]:
        """Validation as the papers do it: mean token loss, and ROUGE-L of one sampled answer."""
        data = self.job.data
        engine = replace(self.engine, model=model)
        metrics = {"dev_loss": reference_loss(engine, data.dev)}
        if self.job.training.select == "max:dev_rouge_l":
            metrics["dev_rouge_l"] = self._dev_rouge_l(engine)
        return metrics

    def _dev_rouge_l(self, engine: LoadedModel) -> float:
        data = self.job.data
        decoding = replace(self.decoding, seed=DEV_SEED)
        answers = chain.from_iterable(engine.answers(as_prompts(data.dev), decoding))
        texts = self.job.tokenizer.batch_decode(
            [list(a.ids) for a in answers], skip_special_tokens=True
        )
        scores = [rouge_l(t, r) for t, r in zip(texts, data.dev_references, strict=True)]
        return sum(scores) / len(scores)

    def _sample_teacher(self, prompts: list[Prompt]) -> list[Answer]:
        """Answers of the teacher; booked apart, since all runs share them."""
        decoding = Decoding(max_new_tokens=self.decoding.max_new_tokens, seed=SAMPLING_SEED)
        apart: Counter[str] = Counter()
        answers = replace(self.rollouts, meter=apart)(prompts, decoding, model="teacher")
        self.meter["teacher_answers"] += apart["sampled"]
        return answers


def teacher_side(
    teacher: PreTrainedModel, head: Head, layout: Layout, training: TrainConfig, *, alike: bool
) -> TeacherSide:
    """The frozen teacher, with a memory where one can pay.

    Not with a tokenizer of its own (``alike`` False), since aligning texts costs more than could be
    saved, nor with a dense head, since what would be kept are logits, as wide as the vocabulary.
    """
    if head.dense or not alike:
        return TeacherSide(teacher, head)
    memory = TeacherMemory(
        teacher,
        layout,
        micro_tokens=training.micro_tokens,
        limit=int(training.teacher_memory_gb * 2**30),
    )
    return TeacherSide(teacher, head, memory)
