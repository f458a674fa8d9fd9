"""run, train and eval as lists of stages."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness import launch
from kdbench.harness.config import Request
from kdbench.harness.contents import from_hub
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.lengths import check_lengths
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.evaluation.rehearsal import check_task_data
from kdbench.harness.files.records import ModelRef, PrepareRecord, RunCard
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import make_folder
from kdbench.harness.own.notes import evaluated_note, foreign_note
from kdbench.harness.progress import Progress
from kdbench.harness.references import INIT
from kdbench.harness.registry import check_method, recorded_method
from kdbench.harness.resolve import says_tuning, training_changes
from kdbench.harness.runner import summary
from kdbench.harness.runner.beside import beside
from kdbench.harness.runner.data import fitted, prepare_data
from kdbench.harness.runner.disk import check_disk
from kdbench.harness.runner.endpoint import spending
from kdbench.harness.runner.jobs import method_job, own_method
from kdbench.harness.runner.models import (
    Located,
    locate,
    student_of,
)
from kdbench.harness.runner.preflight import tried
from kdbench.harness.runner.prepare import (
    Prepared,
    check_drift,
    check_models,
    init_student,
    prepare,
    raw_teacher,
    tuned_teacher,
)
from kdbench.harness.runner.probing import check_probes
from kdbench.harness.runner.references import (
    check_references,
    evaluate_into,
    evaluate_model,
    evaluate_references,
    reference_folder,
)
from kdbench.harness.runner.rows import run_overlaps
from kdbench.harness.runner.storing import Models, filled, readable
from kdbench.harness.runner.tracking import check_trackers, open_tracking
from kdbench.harness.runner.training import Job, train
from kdbench.harness.session import Session, open_session
from kdbench.harness.shorthand import expanded
from kdbench.trainers.store.settings import mark


class Ran(NamedTuple):
    """What a command made: the run, the reference rows beside it, and which tasks were asked.

    ``is_main``: whether this process speaks; of several that share a run, one does.
    """

    run: RunFolder
    references: list[RunFolder]
    tasks: list[str]
    is_main: bool


def progress_of(request: Request) -> Progress:
    """Lines for a person, of one process of several."""
    return Progress(quiet=request.quiet or request.json_output or not launch.speaks())


def run_command(request: Request) -> Ran:
    """Trains, and evaluates the student and its references."""
    check_probes(request.config.tasks.probes, teacher=request.config.pair.teacher)
    progress = progress_of(request)
    check_task_data(request.config, request.data_dir, progress.say)
    check_trackers(request.track)
    session = open_session(request, progress)
    prepared = _trained_run(session, "answers", "references")
    label, probes = session.config.method.name, session.config.tasks.probes
    student = student_of(prepared.run, session.config.pair.student)
    teacher = tuned_teacher(session, prepared) if "exposure" in probes else None
    evaluate_into(session, prepared.run, label, student, None, teacher=teacher)
    if request.track and session.is_main:
        with open_tracking(session, prepared.run.name) as tracking:
            steps = prepared.run.training.stage.info().get("steps", 0)
            tracking.scores(prepared.run.summary.read(), steps)
    return _ran(session, prepared.run, evaluate_references(session, prepared))


def train_command(request: Request) -> Ran:
    """The training stage of ``run`` on its own."""
    check_trackers(request.track)
    session = open_session(request, progress_of(request))
    return Ran(_trained_run(session, "answers").run, [], [], session.is_main)


def _ran(session: Session, run: RunFolder, references: list[RunFolder]) -> Ran:
    tasks = [task.name for task in tasks_of(session.config.tasks)]
    return Ran(run, references, tasks, session.is_main)


def _trained_run(session: Session, *meanwhile: str) -> Prepared:
    """Stages prepare and train of the configured run, under its lock.

    ``meanwhile`` is what can be made beside the training, see `kdbench.harness.runner.beside`.
    """
    check_method(session.config.method)
    prepared = prepare(session)
    if "references" in meanwhile:
        check_references(session.config, prepared.teacher)
        where, say = session.request.data_dir, session.progress.say
        check_lengths(session.config, where, prepared.tokenizer, say)
    if note := foreign_note(session.config):
        session.progress.say(f"note: {note}")
    make_folder(prepared.run.path)
    with session.writing(prepared.run.path):
        # the manifest comes last: a kill just before it left a training without its summary
        if not session.of_main(lambda: prepared.run.trained(session.progress.say)):
            drift = check_drift(session, prepared.run)
            train_run(session, prepared, drift, *meanwhile)
        elif session.is_main:
            summary.mend(prepared.run, session.progress.say)
            given = says_tuning(expanded(session.request.argv[1:]))
            summary.restate(prepared.run, session.config, given=given)
            summary.write_student_card(prepared.run)  # a kill may have come between manifest and it
    return prepared


def train_run(session: Session, prepared: Prepared, drift: list[str], *meanwhile: str) -> None:
    """Teacher, init and student, and the first summary and manifest."""
    config, run = session.config, prepared.run
    size = prepared.base.card.parameters
    trained = 0 if config.train.lora else size
    # before teacher and init are made for it
    session.of_main(lambda: check_disk(run.training.path, trained, size))
    run.config.write(config)
    run.identity.write(prepared.identity)
    data = prepared.data or prepare_data(prepared.rows, config, config.train, prepared.tokenizer)
    for line in fitted(data.facts, config.train):
        session.progress.say(line)
    stored = readable(session, own_method(config), alike=bool(prepared.shared))
    teacher = tuned_teacher(session, prepared)
    init = init_student(session, prepared)
    method = recorded_method(config.method.name, config.method.fingerprint).method
    record = PrepareRecord(
        method=summary.method_facts(config.method.name, method),
        data=data.facts,
        overlaps=run_overlaps(prepared.rows, config, session.request.data_dir),
        tokenizer_sha256=prepared.base.card.tokenizer,
        template=config.pair.template,
        teacher=teacher.card,
        init=init.card,
        hub=[name for name in (config.pair.student, config.pair.teacher) if from_hub(name)],
    )
    asks = method.card.teacher_logits or method.card.teacher_samples
    changed = check_models(session, run, record, asks=asks)
    record = record.model_copy(update={"notes": changed})
    run.prepare.write(record)
    job = method_job(session, prepared, teacher, init, data)
    if stored:
        job = filled(session, prepared, job, Models(teacher, init), stored)
    ahead = () if run.training.stage.marked() else _ahead(session, job, init, meanwhile)
    with open_tracking(session, run.name) as tracking, beside(session, *ahead):
        info = train(session, replace(job, told=tracking.row))
    if not session.is_main:
        return
    if asked := info.get("endpoint"):
        session.progress.say(spending(asked))
    card = run_card(session, prepared, teacher.card, info)
    summary.write_summary(session, run, card, learned(info))
    summary.write_manifest(
        session,
        run,
        prepared=record,
        generation={"training": {"max_new_tokens": config.train.max_response, "temperature": 1.0}},
        extra={
            "method_tokens": info["tokens"],
            "best_step": info["best_step"],
            **{
                name: info[name] for name in ("teacher_store", "endpoint", "engine") if name in info
            },
            "processes": info.get("processes", []),
        },
        drift=[*drift, *changed],
    )


def _ahead(session: Session, job: Job, init: Located, meanwhile: tuple[str, ...]) -> list[str]:
    """What of it there is to do: answers that the teacher has not given, rows that are not there."""
    file = job.teacher_samples
    given = file.read_bytes().count(b"\n") if file is not None and file.is_file() else 0
    missing = {
        "answers": job.method.asks != "data" and given < len(job.data.prompts or job.data.train),
        "references": not reference_folder(session, INIT, init).summary.exists(),
    }
    return [work for work in meanwhile if missing[work]]


def learned(info: dict[str, object]) -> dict[str, float]:
    """Development metrics before training, at the selected step, and at the end."""
    evaluations = info["evaluations"]
    assert isinstance(evaluations, dict)
    moments = {
        "before": evaluations.get("0", {}),
        "selected": evaluations.get(str(info["best_step"]), {}),
        "last": evaluations.get(str(info["steps"]), {}),
    }
    return {f"{k}_{when}": v for when, found in moments.items() for k, v in found.items()}


def run_card(
    session: Session, prepared: Prepared, teacher: ModelRef, info: dict[str, Any]
) -> RunCard:
    """Who made the student of a run; ``info`` is of its training's marker."""
    config = session.config
    method = recorded_method(config.method.name, config.method.fingerprint).method
    student = locate(config.pair.student, str(prepared.run.training.student))
    typed = expanded(session.request.argv[1:])  # --lr and its like are settings too
    return RunCard(
        id=prepared.run.id,
        kind="run",
        method=config.method.name,
        variant=method.card.variant,
        suite=config.suite,
        regime=config.regime,
        teacher=teacher,
        student=student.card,
        training_seed=config.train.seed,
        division="closed" if config.regime == "matched" else "open",
        settings=prepared.settings,
        changes=[*training_changes(typed), *mark(config.teacher.store)],
        tuning=config.tuned,
        selection=info.get("selection", ""),
        trained_parameters=info.get("trained_parameters", 0),
    )


# -- evaluation -----------------------------------------------------------------------------------


def eval_command(request: Request) -> Ran:
    """More tasks for a run's student, or any model's evaluation."""
    check_probes(request.config.tasks.probes, teacher=_teacher_of(request))
    progress = progress_of(request)
    if request.run is None and (note := evaluated_note(request.config, request.model or "teacher")):
        progress.say(f"note: {note}")
    check_task_data(request.config, request.data_dir, progress.say)
    session = open_session(request, progress)
    if request.run is not None:
        run = RunFolder(request.run)
        if not run.training.stage.done():
            raise InputError(f"{run.path} has no trained student yet; finish it with kdbench run")
        student = student_of(run, "student")
        label = session.config.method.name
        evaluate_into(session, run, label, student, None, teacher=_against(session))
    else:
        run = _evaluate_named(session, request.model or "teacher")
    return _ran(session, run, [])


def _evaluate_named(session: Session, name: str) -> RunFolder:
    if name == "truth":
        if session.config.tasks.edition == "full":
            raise InputError("the truth is known of the mini world only; use --suite mini")
        return evaluate_model(session, "truth", None)
    label = {"teacher": "teacher", "init": INIT}.get(name, Path(name).name or name)
    settings = prepare(session).init_settings if name == "init" else ""
    model, against = _named(session, name), _against(session)
    return evaluate_model(session, label, model, against=against, settings=settings)


def _named(session: Session, name: str) -> Located:
    if name == "teacher":
        if session.config.teacher_sft is not None:
            return tuned_teacher(session, prepare(session))
        return raw_teacher(session)
    if name == "init":
        return init_student(session, prepare(session))
    return tried(session, name)


def _against(session: Session) -> Located | None:
    """The teacher of exposure bias, if that was asked for."""
    name = _teacher_of(session.request)
    if "exposure" not in session.config.tasks.probes or name is None:
        return None
    return _named(session, name)


def _teacher_of(request: Request) -> str | None:
    """Whom a student is compared with: the named one, else the teacher of its run."""
    own = "teacher" if request.run is not None and request.config.pair.teacher else None
    return request.teacher or own
