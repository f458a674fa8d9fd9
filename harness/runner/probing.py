"""Probes of one evaluation: ``probe-<name>.json`` each with a stage marker.

A probe whose settings changed (another teacher, more samples) is measured again; the marker holds
what it was measured with.
"""

import time
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.evaluate import Answering, decoding_of, protocol_decoding
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.probes import PROBES
from kdbench.harness.probes.subject import Asked, Report, Subject, find_probe
from kdbench.harness.progress import Stage
from kdbench.harness.questions import PreparedTask
from kdbench.harness.runner.models import Located
from kdbench.harness.session import Session
from kdbench.harness.text_model import TextModel
from kdbench.trainers.devices import sampling_dtype
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.models import load_tokenizer, vocabulary

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
        self._teacher = teacher
        self._load_teacher = cache(self._loaded_teacher)
        texts = [task.name for task in tasks_of(session.config.tasks) if task.kind == "text"]
        self._exposed = EXPOSURE_TASK if EXPOSURE_TASK in texts else (texts or [""])[0]

    def __call__(self, evaluation: Evaluation, prepared: PreparedTask) -> None:
        """All probes of one text task's evaluation, generated and scored, that are not done yet."""
        config = self._session.config
        asked = Asked(
            samples=config.tasks.probe_samples,
            seed=config.generate.seeds[0],
            teacher=self._teacher.card if self._teacher else None,
            model=self._answering.model is not None,
            first=prepared.task == self._exposed,
        )
        for name in PROBES:
            if name in config.tasks.probes:
                settings = find_probe(name).settings(prepared, asked)
                if settings is not None:
                    self._stage(evaluation, name, prepared, settings)

    def _stage(
        self, evaluation: Evaluation, name: str, prepared: PreparedTask, settings: Report
    ) -> None:
        stage = evaluation.probe(name)
        if stage.done() and stage.info().get("settings") == settings:
            return
        began = time.perf_counter()
        with self._session.progress.stage(f"{self._answering.label}: {name}", 1) as live:
            subject = self._subject(evaluation, prepared)
            report = find_probe(name).measure(subject, prepared, settings)
            live.update(1)
        wall_s = time.perf_counter() - began
        self._session.cost(f"probe-{name}", wall_s)
        evaluation.keep_probe(name, report, {"settings": settings, "wall_s": wall_s})

    def _subject(self, evaluation: Evaluation, prepared: PreparedTask) -> Subject:
        label = self._answering.label
        record = protocol_decoding(self._session.config, prepared.protocol)

        def stage(title: str, prompts: int) -> AbstractContextManager[Stage]:
            return self._session.progress.stage(f"{label}: {title}", prompts, unit="prompt")

        return Subject(
            model=self._answering.model or self._load_teacher,
            teacher=self._load_teacher,
            teacher_name=self._teacher.card.name if self._teacher else "",
            evaluation=evaluation,
            decoding=lambda seed: decoding_of(record, seed),
            stage=stage,
        )

    def _loaded_teacher(self) -> TextModel:
        assert self._teacher is not None
        return text_model(self._session, self._teacher, load_tokenizer(self._teacher.ref))


def text_model(session: Session, model: Located, tokenizer: Any) -> TextModel:
    """A model loaded in the precision it is sampled in (float64 decoding keeps float32 weights)."""
    config, generate = session.config, session.config.generate
    precision = config.train.precision if generate.dtype == "auto" else generate.dtype
    dtype = sampling_dtype(precision)
    loaded = model.load(torch.float32 if dtype == torch.float64 else dtype, session.device)
    engine = LoadedModel(
        model=loaded,
        vocabulary=vocabulary(tokenizer, loaded),
        batch_size=generate.batch_size,
        chunk=generate.chunk,
        sampling_dtype=dtype,
    )
    return TextModel(engine, tokenizer)
