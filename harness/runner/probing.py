"""Probes of one evaluation: ``probe-<name>.json`` each with a stage marker.

A probe whose settings changed (another teacher, more samples) is measured again; the marker holds
what it was measured with.
"""

from dataclasses import replace
from functools import cache, partial

import torch
from transformers import PreTrainedTokenizerBase

from kdbench.harness.data.tokens import end_of
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.evaluate import Answering, protocol_decoding
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.files.costs import settle
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.probes import PROBES
from kdbench.harness.probes.subject import Subject, Teacher, find_probe, of_itself
from kdbench.harness.questions import PreparedTask
from kdbench.harness.runner.models import Located
from kdbench.harness.session import Session
from kdbench.harness.text_model import TextModel, context_of, decoding_of
from kdbench.trainers.devices import sampling_dtype
from kdbench.trainers.engine import Engine, LoadedModel
from kdbench.trainers.models import config_from, load_tokenizer, vocabulary
from kdbench.trainers.sampler.sampler import context_length
from kdbench.trainers.vllm.engine import VllmEngine

EXPOSURE_TASK = "dolly"
"""Exposure bias is measured on the paper's set; without it among the tasks, on the first of them."""


def check_probes(names: tuple[str, ...], *, teacher: object | None) -> None:
    """Raises InputError for a probe that is unknown or lacks its teacher."""
    for name in names:
        if name not in PROBES:
            raise InputError(f"unknown probe {name!r}; choose from {', '.join(PROBES)}")
        if PROBES[name].needs_teacher and teacher is None:
            raise InputError(
                f"probe {name} compares a student with its teacher; name it by --teacher PATH, or "
                f"leave {name} out of --probes"
            )


class Prober:
    """Runs the configured probes on evaluations of one model.

    Args:
        session: the command.
        answering: who is measured; of the truth, only texts are looked at.
        teacher: for exposure bias; None leaves it out.
    """

    def __init__(self, session: Session, answering: Answering, teacher: Located | None) -> None:
        self._session = session
        self._answering = answering
        self._teacher = None
        if teacher is not None:
            self._teacher = Teacher(teacher.card, cache(partial(text_model, session, teacher)))
        texts = [task.name for task in tasks_of(session.config.tasks) if task.in_words]
        self._exposed = EXPOSURE_TASK if EXPOSURE_TASK in texts else (texts or [""])[0]

    def __call__(self, evaluation: Evaluation, prepared: PreparedTask) -> None:
        """All probes of one text task's evaluation, generated and scored, that are not done yet."""
        config, progress = self._session.config, self._session.progress
        decoding = protocol_decoding(config, prepared.protocol)
        label = self._answering.label
        subject = Subject(
            load=self._answering.model,
            teacher=self._teacher,
            evaluation=evaluation,
            decoding=lambda seed: of_itself(decoding_of(decoding, seed)),
            seed=config.generate.seeds[0],
            samples=config.tasks.probe_samples,
            first=prepared.task == self._exposed,
            stage=lambda title, prompts: progress.stage(
                f"{label}: {title}", prompts, unit="prompt"
            ),
        )
        for name in PROBES:
            if name in config.tasks.probes:
                self._stage(name, subject, prepared)

    def _stage(self, name: str, subject: Subject, prepared: PreparedTask) -> None:
        probe, stage = find_probe(name), subject.evaluation.probe(name)
        settings = probe.settings(subject, prepared)
        if settings is None:
            return
        done = stage.done(self._session.progress.say)
        if done and stage.info().get("settings") == settings:
            settle(stage)  # a kill may have come between its marker and this
            return
        spent = self._session.spent(stage)
        with self._session.progress.stage(f"{self._answering.label}: {name}", 1) as live:
            report = probe.measure(replace(subject, stored=spent.lap), prepared, settings)
            live.update(1)
        subject.evaluation.keep_probe(name, report, {"settings": settings, **spent.info()})
        settle(stage)


def text_model(session: Session, model: Located) -> TextModel:
    """A model with its tokenizer, in the precision it is sampled in.

    Decoding in float64 keeps float32 weights.
    """
    tokenizer = load_tokenizer(model.ref)
    generate, form = session.config.generate, session.config.task_format
    dtype = sampling_dtype(session.config.answer_precision)
    loaded = model.load(torch.float32 if dtype == torch.float64 else dtype, session.device)
    local = LoadedModel(
        model=loaded,
        vocabulary=vocabulary(tokenizer, loaded, end=end_of(tokenizer, form)),
        batch_size=generate.batch_size,
        chunk=generate.chunk,
        sampling_dtype=dtype,
    )
    engine: Engine = local
    if generate.engine == "vllm":
        engine = VllmEngine(local, changes=False, say=session.note_comparison)
    return TextModel(engine, tokenizer, form)


def room(model: Located, tokenizer: PreTrainedTokenizerBase) -> int:
    """A model's context in tokens, prompt and answer together, without loading its weights."""
    return context_of(context_length(config_from(model.ref)), tokenizer)
