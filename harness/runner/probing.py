"""Probes of one evaluation: ``probe-<name>.json`` each with a stage marker.

A probe whose settings changed (another teacher, more samples) is measured again; the marker holds
what it was measured with.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.evaluate import Subject, decoding_of, protocol_decoding
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.evaluation.texts import self_bleu_report
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.identity import digest
from kdbench.harness.probes import PROBES
from kdbench.harness.probes.intervals import calibration, exposure_curves, mean_estimate
from kdbench.harness.questions import PreparedTask
from kdbench.harness.runner.models import Located
from kdbench.harness.session import Session
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
        subject: who is measured; of the truth, only texts are looked at.
        teacher: for exposure bias; None leaves it out.
    """

    def __init__(self, session: Session, subject: Subject, teacher: Located | None) -> None:
        self._session = session
        self._subject = subject
        self._label = subject.label
        self._teacher_model = teacher
        self._loaded: dict[str, Probed] = {}
        texts = [task.name for task in tasks_of(session.config.tasks) if task.kind == "text"]
        self._exposed = EXPOSURE_TASK if EXPOSURE_TASK in texts else (texts or [""])[0]

    def __call__(self, evaluation: Evaluation, prepared: PreparedTask) -> None:
        """All probes of one text task's evaluation, generated and scored, that are not done yet."""
        wanted = set(self._session.config.tasks.probes)
        world = prepared.edition.startswith("mini")
        todo: list[tuple[str, Report, Callable[[], Report]]] = []
        if "self_bleu" in wanted:
            todo.append(("self_bleu", {}, lambda: self_bleu_report(evaluation.samples())))
        if self._subject.engine is not None:
            exposed = prepared.task == self._exposed
            if "exposure" in wanted and exposed and self._teacher_model is not None:
                told = self._exposure_settings(prepared)
                measure = partial(self._exposure, prepared, evaluation, told)
                todo.append(("exposure", told, measure))
            if "calibration" in wanted:
                todo.append(("calibration", {}, lambda: self._calibration(prepared)))
            if "loss" in wanted:
                todo.append(("loss", {}, lambda: self._loss(prepared)))
            if "truth" in wanted and world:
                settings = {"samples": self._samples(TRUTH_SAMPLES)}
                todo.append(("truth", settings, lambda: self._truth(prepared, settings["samples"])))
        for name, settings, measure in todo:
            self._stage(evaluation, name, settings, measure)

    def _stage(
        self, evaluation: Evaluation, name: str, settings: Report, measure: Callable[[], Report]
    ) -> None:
        stage = evaluation.probe(name)
        if stage.done() and stage.info().get("settings") == settings:
            return
        began = time.perf_counter()
        with self._session.progress.stage(f"{self._label}: {name}", 1) as live:
            report = measure()
            live.update(1)
        wall_s = time.perf_counter() - began
        self._session.cost(f"probe-{name}", wall_s)
        evaluation.keep_probe(name, report, {"settings": settings, "wall_s": wall_s})

    def _samples(self, default: int) -> int:
        asked = self._session.config.tasks.probe_samples
        return default if asked is None else asked

    def _student(self) -> "Probed":
        assert self._subject.engine is not None
        if "student" not in self._loaded:
            engine = self._subject.engine()
            self._loaded["student"] = self._probed(engine.model, self._subject.tokenizer)
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

    def _decoding(self, prepared: PreparedTask) -> Decoding:
        """How contexts are sampled: as the task's answers are, with the first seed."""
        record = protocol_decoding(self._session.config, prepared.protocol)
        return decoding_of(record, self._session.config.generate.seeds[0])

    # -- exposure bias

    def _exposure_settings(self, prepared: PreparedTask) -> Report:
        assert self._teacher_model is not None
        return {
            "teacher": self._teacher_model.id,
            "samples": self._samples(prepared.protocol.exposure_samples),
            "protocol": prepared.protocol.name,
            "seed": self._session.config.generate.seeds[0],
        }

    def _exposure(self, prepared: PreparedTask, evaluation: Evaluation, settings: Report) -> Report:
        from kdbench.harness.probes.exposure import check_pair, context_errors, table

        student, teacher = self._student(), self._teacher()
        check_pair(student, teacher)
        decoding = self._decoding(prepared)
        part = digest(settings)[:8]
        tables = []
        for who, writer in (("student", student), ("teacher", teacher)):
            title = f"{self._label}: errors on {who} contexts"
            with self._session.progress.stage(title, len(prepared.docs), unit="prompt") as live:
                rows = context_errors(
                    writer,
                    student,
                    teacher,
                    prepared.docs,
                    path=evaluation.part(f"exposure.{part}.{who}.jsonl"),
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
            tokenizer = load_tokenizer(self._teacher_model.ref)
            engine = loaded(self._session, self._teacher_model, tokenizer)
            self._loaded["teacher"] = self._probed(engine.model, tokenizer)
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
            decoding=self._decoding(prepared),
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


def loaded(session: Session, model: Located, tokenizer: Any) -> Any:
    """A model in the precision it is sampled in (float64 decoding keeps float32 weights)."""
    import torch

    from kdbench.harness.model_side import ModelSide

    dtype, generate = decode_dtype(session), session.config.generate
    weights = model.load(torch.float32 if dtype == torch.float64 else dtype, session.device)
    return ModelSide(
        model=weights,
        tokenizer=tokenizer,
        vocab=vocabulary(tokenizer, weights),
        batch_size=generate.batch_size,
        max_length=context_length(weights),
        seed=generate.seeds[0],
        chunk=generate.chunk,
        dtype=dtype,
    )


def context_length(model: PreTrainedModel) -> int:
    """Tokens of prompt and answer together that a model takes."""
    positions = model.config.get_text_config().to_dict()
    return int(positions.get("max_position_embeddings") or positions.get("n_positions") or 2048)
