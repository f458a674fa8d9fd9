"""Probes of one evaluation: ``probe-<name>.json`` each with a stage marker, joined in probes.json.

A probe whose settings changed (another teacher, more samples) is measured again; the marker holds
what it was measured with.
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

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
from kdbench.harness.prompts import PreparedTask
from kdbench.harness.runner.intervals import calibration, exposure_curves, mean_estimate
from kdbench.harness.runner.models import Located
from kdbench.harness.runner.session import Session
from kdbench.harness.runner.text_report import self_bleu_report, text_report
from kdbench.harness.samples import samples_file
from kdbench.trainers.devices import sampling_dtype
from kdbench.trainers.models import load_tokenizer, vocabulary
from kdbench.trainers.types import Decoding

if TYPE_CHECKING:
    from kdbench.harness.probes.models import Probed

EXPOSURE_TASK = "dolly"
"""Exposure bias is measured on the paper's set; without it among the tasks, on the first of them."""
TRUTH_SAMPLES = 10
Report = dict[str, Any]


def check_probes(names: tuple[str, ...], *, teacher: object | None) -> None:
    """Raises InputError for a probe that is unknown or lacks its teacher."""
    for name in names:
        if name not in PROBES:
            raise InputError(f"unknown probe {name!r}; choose from {', '.join(PROBES)}")
    if "exposure" in names and teacher is None:
        raise InputError(
            "exposure bias compares a student with its teacher; name it by --teacher PATH, or leave "
            "exposure out of --probes"
        )


class Prober:
    """Runs the configured probes on evaluations of one model.

    Args:
        session: the command.
        label: for progress lines.
        model: gives the loaded model; None for the truth, of which only texts are looked at.
        tokenizer: the model's.
        teacher: for exposure bias; None leaves it out.
        decoding: decoding seed -> sampling settings.
    """

    def __init__(
        self,
        session: Session,
        label: str,
        model: Callable[[], PreTrainedModel] | None,
        tokenizer: Any,
        teacher: Located | None,
        decoding: Callable[[int], Decoding],
    ) -> None:
        self._session = session
        self._label = label
        self._model = model
        self._tokenizer = tokenizer
        self._teacher_model = teacher
        self._decoding = decoding
        self._loaded: dict[str, Probed] = {}

    def run(self, prepared: PreparedTask, out: Path, *, exposure: bool) -> None:
        """All probes of one text task's evaluation in ``out`` that are not done yet.

        Args:
            prepared: its prompts.
            out: the evaluation's folder, generated and scored.
            exposure: whether exposure bias is measured on this task.
        """
        wanted = set(self._session.config.tasks.probes)
        world = prepared.edition.startswith("mini")
        todo: list[tuple[str, Report, Callable[[], Report]]] = []
        if "self_bleu" in wanted:
            todo.append(("self_bleu", {}, lambda: self_bleu_report(stored_samples(out))))
        if self._model is not None:
            if "exposure" in wanted and exposure and self._teacher_model is not None:
                settings = self._exposure_settings(prepared)
                todo.append(("exposure", settings, lambda: self._exposure(prepared, out, settings)))
            if "calibration" in wanted:
                todo.append(("calibration", {}, lambda: self._calibration(prepared)))
            if "loss" in wanted:
                todo.append(("loss", {}, lambda: self._loss(prepared)))
            if "truth" in wanted and world:
                settings = {"samples": self._samples(TRUTH_SAMPLES)}
                todo.append(("truth", settings, lambda: self._truth(prepared, settings["samples"])))
        for name, settings, measure in todo:
            self._stage(out, name, settings, measure)
        join(out)

    def _stage(self, out: Path, name: str, settings: Report, measure: Callable[[], Report]) -> None:
        marker = read_marker(out, f"probe-{name}")
        if marker and marker.info.get("settings") == settings and is_done(out, f"probe-{name}"):
            return
        began = time.perf_counter()
        with self._session.progress.stage(f"{self._label}: {name}", 1) as live:
            report = measure()
            live.update(1)
        wall_s = time.perf_counter() - began
        self._session.cost(f"probe-{name}", wall_s)
        keep(out, name, report, {"settings": settings, "wall_s": wall_s})

    def _samples(self, default: int) -> int:
        asked = self._session.config.tasks.probe_samples
        return default if asked is None else asked

    def _student(self) -> "Probed":
        assert self._model is not None
        if "student" not in self._loaded:
            self._loaded["student"] = self._probed(self._model(), self._tokenizer)
        return self._loaded["student"]

    def _probed(self, model: PreTrainedModel, tokenizer: Any) -> "Probed":
        from kdbench.harness.probes.models import Probed

        generate = self._session.config.generate
        return Probed(
            model=model,
            tokenizer=tokenizer,
            vocab=vocabulary(tokenizer, model),
            batch_size=generate.batch_size,
            chunk=generate.chunk,
            dtype=decode_dtype(self._session),
        )

    # -- exposure bias

    def _exposure_settings(self, prepared: PreparedTask) -> Report:
        assert self._teacher_model is not None
        return {
            "teacher": self._teacher_model.card.fingerprint,
            "samples": self._samples(prepared.protocol.exposure_samples),
            "protocol": prepared.protocol.name,
            "seed": self._session.config.generate.seeds[0],
        }

    def _exposure(self, prepared: PreparedTask, out: Path, settings: Report) -> Report:
        from kdbench.harness.probes.exposure import check_pair, context_errors, table

        student, teacher = self._student(), self._teacher()
        check_pair(student, teacher)
        decoding = self._decoding(settings["seed"])
        part = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        tables = []
        for who, writer in (("student", student), ("teacher", teacher)):
            title = f"{self._label}: errors on {who} contexts"
            with self._session.progress.stage(title, len(prepared.docs), unit="prompt") as live:
                rows = context_errors(
                    writer,
                    student,
                    teacher,
                    prepared.docs,
                    path=out / f"exposure.{part}.{who}.jsonl",
                    protocol=prepared.protocol,
                    decoding=decoding,
                    samples=settings["samples"],
                    on_progress=live.update,
                )
            skipped = 0 if prepared.protocol.exposure_first_token else 1
            tables.append(table(rows, max(1, decoding.max_new_tokens - skipped)))
        return settings | {
            "teacher_name": self._teacher_model.card.name if self._teacher_model else "",
            "first_token": "scored" if prepared.protocol.exposure_first_token else "skipped",
            "average": (
                "over samples still running + 1e-3"
                if prepared.protocol.exposure_count_offset
                else "over all samples, ended ones as 0"
            ),
            **exposure_curves(*tables),
        }

    def _teacher(self) -> "Probed":
        assert self._teacher_model is not None
        if "teacher" not in self._loaded:
            model = load_for_sampling(self._session, self._teacher_model)
            tokenizer = load_tokenizer(self._teacher_model.ref)
            self._loaded["teacher"] = self._probed(model, tokenizer)
        return self._loaded["teacher"]

    # -- reference answers

    def _calibration(self, prepared: PreparedTask) -> Report:
        from kdbench.harness.probes.references import reference_tokens

        found = reference_tokens(self._student(), prepared.docs, prepared.protocol)
        shared = (found.confidence_N, found.correct_N)
        return {
            "of": "next-token probabilities on reference answers (first 256 tokens)",
            **calibration(*shared, clusters_N=found.owner_N),
            "equal_mass": calibration(*shared, clusters_N=found.owner_N, binning="mass"),
            "brier": mean_estimate(found.means(found.brier_N).tolist()),
        }

    def _loss(self, prepared: PreparedTask) -> Report:
        from kdbench.harness.probes.references import REFERENCE_TOKENS, reference_tokens

        found = reference_tokens(self._student(), prepared.docs, prepared.protocol)
        return {
            "of": f"mean over prompts of mean nats a token, first {REFERENCE_TOKENS} tokens of the "
            "first reference",
            "loss": mean_estimate(found.means(found.nll_N).tolist()),
            "per_token": float(found.nll_N.mean()),
        }

    # -- the generated world

    def _truth(self, prepared: PreparedTask, samples: int) -> Report:
        from kdbench.harness.probes.truth import METHOD, against_truth

        rows = against_truth(
            self._student(),
            prepared.docs,
            protocol=prepared.protocol,
            decoding=self._decoding(self._session.config.generate.seeds[0]),
            samples=samples,
        )
        groups = defaultdict(list)
        for row in rows:
            groups[row.category].append(row)

        def means(chosen: list[Any]) -> Report:
            names = ("kl_true_student", "kl_student_true", "invalid", "modes_covered", "valid_mass")
            return {name: mean_estimate([getattr(r, name) for r in chosen]) for name in names}

        return {
            "of": METHOD,
            "samples": samples,
            **means(rows),
            "by_category": {name: means(groups[name]) for name in sorted(groups)},
        }


def decode_dtype(session: Session) -> Any:
    """Arithmetic of decoding, as evaluation uses it."""
    config = session.config
    precision = config.train.precision if config.generate.dtype == "auto" else config.generate.dtype
    return sampling_dtype(precision)


def load_for_sampling(session: Session, model: Located) -> PreTrainedModel:
    """A model in the precision it is sampled in (float64 decoding keeps float32 weights)."""
    import torch

    dtype = decode_dtype(session)
    return model.load(torch.float32 if dtype == torch.float64 else dtype, session.device)


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
