"""The training of a run's method, as `kdbench.harness.runner.training` takes it."""

from functools import partial
from pathlib import Path

from kdbench.harness.config import RunConfig
from kdbench.harness.endpoints import place_of
from kdbench.harness.identity import engine_parts, shared_id
from kdbench.harness.registry import recorded_method
from kdbench.harness.runner.data import TrainingData, twins_of
from kdbench.harness.runner.endpoint import EndpointTeacher, ledger_id, questions
from kdbench.harness.runner.models import Located, end_tokens
from kdbench.harness.runner.prepare import Prepared
from kdbench.harness.runner.training import Job
from kdbench.harness.session import Session
from kdbench.trainers.method import Method
from kdbench.trainers.models import load_model


def method_job(
    session: Session, prepared: Prepared, teacher: Located, init: Located, data: TrainingData
) -> Job:
    """The training of the configured method."""
    config = session.config
    method = own_method(config)
    needs_teacher = method.card.teacher_logits or method.card.teacher_samples
    away = _away(session, prepared, teacher, data) if needs_teacher else None
    here = needs_teacher and away is None
    twins = partial(twins_of, prepared.rows, config, prepared.tokenizer, teacher.ref)
    return Job(
        name=config.method.name,
        method=method,
        training=config.train,
        student=lambda dtype: load_model(init.ref, dtype=dtype),
        base=init.content_name,
        teacher=(lambda dtype: load_model(teacher.ref, dtype=dtype)) if here else None,
        student_ref=init.ref,
        teacher_ref=teacher.ref if here else "",
        tokenizer=prepared.tokenizer,
        shared=prepared.shared or None,
        twins=None if prepared.shared else twins,
        data=data,
        rouge_tokenizer=config.tasks.rouge_tokenizer,
        teacher_samples=teacher_samples(session, prepared, teacher),
        away=away,
        engine=config.generate.engine,
        out=prepared.run.training,
    )


def own_method(config: RunConfig) -> Method:
    """A fresh instance of the configured method."""
    method = recorded_method(config.method.name, config.method.fingerprint).method
    return method(method.Config.model_validate(config.method.options))


def teacher_samples(session: Session, prepared: Prepared, teacher: Located) -> Path:
    """File of the teacher's answers to the training prompts, named by all that decides them."""
    training, generate = session.config.train, session.config.generate
    name = shared_id(
        session.config,
        prepared.contents,
        None,
        teacher.card,
        prompts=prepared.contents.prompts,
        tokenizer=prepared.base.card.tokenizer,
        ends=end_tokens(prepared.base),
        lengths=[training.max_prompt, training.max_length],
        precision=[training.precision, training.sample_precision],
        company=[generate.chunk, generate.batch_size],  # decoded together; decides the last bits
        **engine_parts(session.config),
    )
    return session.cached("teacher-answers", name) / "answers.jsonl"


def _away(
    session: Session, prepared: Prepared, teacher: Located, data: TrainingData
) -> EndpointTeacher | None:
    """The teacher, if it is asked over the network; what it said as it came lies beside its answers."""
    place = place_of(teacher.ref)
    if place is None:
        return None
    return EndpointTeacher(
        session=session,
        place=place,
        asked=questions(prepared.rows, session.config, prepared.tokenizer),
        tokenizer=prepared.tokenizer,
        end_id=data.end_id,
        room=session.config.train.max_response,
        folder=session.cached("teacher-asked", ledger_id(place, prepared.contents.prompts)),
    )
