"""Probes of one evaluation: ``probe-<name>.json`` each with a stage marker, joined in probes.json.

A probe whose settings changed (another teacher, more samples) is measured again; the marker holds
what it was measured with.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SampleRow, ScoreRow
from kdbench.harness.files.store import (
    is_done,
    mark_done,
    read_json,
    read_marker,
    read_records,
    write_json,
)
from kdbench.harness.probes import PROBES
from kdbench.harness.probes.subject import Report, Subject, Teacher, find_probe
from kdbench.harness.prompts import PreparedTask
from kdbench.harness.runner.models import Located
from kdbench.harness.runner.session import Session
from kdbench.harness.runner.text_report import text_report
from kdbench.harness.samples import samples_file
from kdbench.harness.text_model import TextModel
from kdbench.trainers.devices import sampling_dtype
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.models import load_tokenizer, vocabulary
from kdbench.trainers.types import Decoding

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
        label: for progress lines.
        model: gives the loaded model; None for the truth, of which only texts are looked at.
        teacher: for exposure bias; None leaves it out.
        decoding: decoding seed -> sampling settings.
    """

    def __init__(
        self,
        session: Session,
        label: str,
        model: Callable[[], TextModel] | None,
        teacher: Located | None,
        decoding: Callable[[int], Decoding],
    ) -> None:
        self._session = session
        self._label = label
        self._model = model
        self._decoding = decoding
        self._teacher = None
        if teacher is not None:
            self._teacher = Teacher(teacher.card, cache(partial(loaded, session, teacher)))

    def run(self, prepared: PreparedTask, out: Path, *, exposure: bool) -> None:
        """All probes of one text task's evaluation in ``out`` that are not done yet.

        Args:
            prepared: its prompts.
            out: the evaluation's folder, generated and scored.
            exposure: whether exposure bias is measured on this task.
        """
        config, progress = self._session.config, self._session.progress
        subject = Subject(
            load=self._model,
            teacher=self._teacher,
            answers=lambda: stored_samples(out),
            decoding=self._decoding,
            seed=config.generate.seeds[0],
            samples=config.tasks.probe_samples,
            first=exposure,
            folder=out,
            stage=lambda title, prompts: progress.stage(
                f"{self._label}: {title}", prompts, unit="prompt"
            ),
        )
        for name in PROBES:
            if name in config.tasks.probes:
                self._stage(name, subject, prepared)
        join(out)

    def _stage(self, name: str, subject: Subject, prepared: PreparedTask) -> None:
        out, probe = subject.folder, find_probe(name)
        settings = probe.settings(subject, prepared)
        if settings is None:
            return
        marker = read_marker(out, f"probe-{name}")
        if marker and marker.info.get("settings") == settings and is_done(out, f"probe-{name}"):
            return
        began = time.perf_counter()
        with self._session.progress.stage(f"{self._label}: {name}", 1) as live:
            report = probe.measure(subject, prepared, settings)
            live.update(1)
        wall_s = time.perf_counter() - began
        self._session.cost(f"probe-{name}", wall_s)
        keep(out, name, report, {"settings": settings, "wall_s": wall_s})


def decode_dtype(session: Session) -> Any:
    """Arithmetic of decoding, as evaluation uses it."""
    config = session.config
    precision = config.train.precision if config.generate.dtype == "auto" else config.generate.dtype
    return sampling_dtype(precision)


def loaded(session: Session, model: Located) -> TextModel:
    """A model with its tokenizer, in the precision it is sampled in.

    Decoding in float64 keeps float32 weights.
    """
    generate, dtype = session.config.generate, decode_dtype(session)
    tokenizer = load_tokenizer(model.ref)
    network = model.load(torch.float32 if dtype == torch.float64 else dtype, session.device)
    engine = LoadedModel(
        model=network,
        vocabulary=vocabulary(tokenizer, network),
        batch_size=generate.batch_size,
        chunk=generate.chunk,
        sampling_dtype=dtype,
    )
    return TextModel(engine, tokenizer)


# -- files ----------------------------------------------------------------------------------------


def stored_samples(out: Path) -> list[SampleRow]:
    """All answers of an evaluation, whatever its seeds."""
    files = sorted(out.glob("samples.seed*.jsonl"))
    seeds = [int(file.name.split("seed")[1].split(".")[0]) for file in files]
    return [row for seed in seeds for row in read_records(samples_file(out, seed), SampleRow)]


def keep_text(out: Path, samples: list[SampleRow], scores: list[ScoreRow]) -> None:
    """What stored answers say by themselves; renewed with every scoring."""
    keep(out, "text", text_report(samples, scores), {})
    join(out)


def keep(out: Path, name: str, report: Report, info: Report) -> None:
    """Stores one probe's report and marks it done."""
    file = f"probe-{name}.json"
    write_json(out / file, report)
    mark_done(out, f"probe-{name}", [file], info)


def join(out: Path) -> None:
    """probes.json: all that was measured, by probe."""
    files = sorted(out.glob("probe-*.json"))
    if files:
        found = {file.stem.removeprefix("probe-"): read_json(file) for file in files}
        write_json(out / "probes.json", found)


def probes_below(folder: Path) -> dict[str, Report]:
    """``Summary.probes``: probes.json of every evaluation of a run folder, by key."""
    return {
        out.name: read_json(out / "probes.json")
        for out in sorted((folder / "eval").glob("*@*"))
        if (out / "probes.json").is_file()
    }
