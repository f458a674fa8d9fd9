"""Evaluations of models in run folders: of a trained student, and of the reference rows that runs share."""

from dataclasses import replace
from functools import partial

from kdbench.harness import references
from kdbench.harness.config import RunConfig
from kdbench.harness.endpoints import place_of
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.evaluate import (
    Answering,
    answering_model,
    answering_truth,
    evaluate,
)
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.files.locks import WAIT
from kdbench.harness.files.records import ModelRef, PrepareRecord, RunCard
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import make_folder
from kdbench.harness.references import (
    INIT,
    TEACHER,
    TRUTH,
    UNTRAINED,
    reference_labels,
    tasks_asked,
)
from kdbench.harness.runner import summary
from kdbench.harness.runner.models import Located
from kdbench.harness.runner.prepare import Prepared, init_student, tuned_teacher
from kdbench.harness.runner.probing import Prober, room
from kdbench.harness.runner.together import answering_together, spread_model
from kdbench.harness.session import Session
from kdbench.trainers.models import load_tokenizer


def evaluate_into(
    session: Session,
    run: RunFolder,
    label: str,
    model: Located | None,
    card: RunCard | None,
    *,
    wait: float = 0.0,
    teacher: Located | None = None,
) -> None:
    """Evaluates a model (None: the truth) and renews the folder's summary if that adds anything.

    ``card`` is that of a reference row, which has no training before it; None: a trained run's.
    """
    with session.writing(run.path, wait=wait), answering_together(session, model) as asks:
        if not asks:
            return
        say = session.progress.say
        if card is not None and not run.config.sound(say):
            run.config.write(session.config)
        summary.mend(run, say)
        answering = _answering(session, label, model)
        evaluate(session, answering, run, Prober(session, answering, teacher))
        whose = card or run.summary.read().run
        added = summary.write_summary(session, run, whose, {})
        whole = run.manifest.sound(say) and summary.manifested(run)
        if card is not None and (added or not whole):
            summary.write_manifest(
                session,
                run,
                prepared=PrepareRecord(),
                generation={},
                extra={"label": label},
                drift=[],
            )


def _answering(session: Session, label: str, model: Located | None) -> Answering:
    if model is None:
        return answering_truth(session.config.tasks.edition, session.config.generate.chunk)
    tokenizer = load_tokenizer(model.ref)
    load, context = partial(spread_model, session, model), partial(room, model, tokenizer)
    return answering_model(label, model.card, tokenizer, load, context)


def check_references(config: RunConfig, teacher: Located) -> None:
    """Refuses tasks in a chat format where the teacher, which is asked them too, has none.

    One that is fine-tuned here has the student's by then.

    Raises:
        InputError: says so before anything is trained.
    """
    asked = config.task_template == "chat" and TEACHER in reference_labels(config)
    if asked and config.teacher_sft is None and not load_tokenizer(teacher.ref).chat_template:
        raise InputError(
            f"teacher {teacher.card.name} has no chat template, so it cannot be asked the tasks; give it a "
            "copy of the student's chat_template.jinja, or train without tasks (kdbench train) and "
            "evaluate the student alone (kdbench eval RUN)"
        )


def evaluate_references(session: Session, prepared: Prepared) -> list[RunFolder]:
    """Truth, teacher, student before training and SFT init: evaluated once, shared by all runs."""
    config = session.config
    teacher = tuned_teacher(session, prepared)
    away = place_of(teacher.ref) is not None
    if away:
        session.progress.say(
            f"note: teacher {teacher.card.name} is behind an endpoint and answers no tasks here, so no row "
            "of the table is its; kdbench score --outputs takes answers of other systems"
        )
    models: dict[str, Located | None] = {TRUTH: None, TEACHER: teacher, UNTRAINED: prepared.base}
    rows = [
        (label, init_student(session, prepared) if label == INIT else models[label])
        for label in reference_labels(config)
    ]
    return [
        evaluate_model(
            asked,
            label,
            model,
            teacher.card if model is not teacher else None,
            against=teacher if model is not teacher and not away else None,
            settings=prepared.init_settings if label == INIT else "",
        )
        for label, model in rows
        if (asked := _asked(session, label)) is not None
    ]


def _asked(session: Session, label: str) -> Session | None:
    """The session with the tasks that a reference row is asked; None where it can be asked none of them."""
    tasks = tasks_of(session.config.tasks)
    mine = tasks_asked(label, tasks)
    if len(mine) == len(tasks):
        return session
    names = {"names": tuple(task.name for task in mine)}
    config = session.config.model_copy(
        update={"tasks": session.config.tasks.model_copy(update=names)}
    )
    return replace(session, config=config) if mine else None


def reference_folder(session: Session, label: str, model: Located | None) -> RunFolder:
    """Where evaluations of a model (None: the truth) in the session's suite are; it need not be there."""
    return references.reference_folder(
        session.request.runs_dir, label, model.id if model else TRUTH, session.config.suite
    )


def evaluate_model(
    session: Session,
    label: str,
    model: Located | None,
    teacher: ModelRef | None = None,
    *,
    against: Located | None = None,
    settings: str = "",
) -> RunFolder:
    """An eval-kind run folder, one for each (model by content, suite).

    Args:
        session: the command.
        label: what tables call the model.
        model: None for the truth.
        teacher: of the table that the model belongs to, if that is another.
        against: the teacher of exposure bias, if that is measured.
        settings: of an init that a training seed makes: what the inits of all seeds share.
    """
    run = reference_folder(session, label, model)
    make_folder(run.path)
    card = RunCard(
        id=run.id,
        kind="eval",
        method=label,
        suite=session.config.suite,
        regime=session.config.regime,
        teacher=teacher,
        student=model.card if model else None,
        training_seed=session.config.train.seed_of_init if settings else None,
        division="reference",
        settings=settings,
    )
    evaluate_into(session, run, label, model, card, wait=WAIT, teacher=against)
    return run
