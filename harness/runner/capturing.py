"""``kdbench capture``: a teacher store is filled before anybody trains with it."""

from dataclasses import replace
from typing import Any

from kdbench.harness.config import Request, RunConfig
from kdbench.harness.errors import InputError
from kdbench.harness.registry import check_method
from kdbench.harness.runner.commands import progress_of
from kdbench.harness.runner.data import fitted, prepare_data
from kdbench.harness.runner.jobs import method_job, own_method
from kdbench.harness.runner.prepare import prepare, tuned_teacher
from kdbench.harness.runner.storing import Models, filled, readable
from kdbench.harness.session import open_session
from kdbench.trainers.store.settings import HIDDEN, NONE


def capture_command(request: Request) -> dict[str, Any]:
    """Fills the store of a run's teacher over all rows that its method may ask about.

    The teacher is fine-tuned first where the suite says so and nobody has yet. What is there is not
    computed again. Returns what a run says of the store, and ``is_main``.

    Raises:
        InputError: the method asks its teacher about nothing that is known before training.
    """
    session = open_session(_storing(request), progress_of(request))
    config = session.config
    check_method(config.method)
    method = own_method(config)
    if not method.reads():
        raise InputError(
            f"method {config.method.name} asks its teacher about nothing that is known before training, so "
            "there is nothing to capture for it; name one that does, as fkd"
        )
    prepared = prepare(session)
    kinds = readable(session, method, alike=bool(prepared.shared))
    data = prepared.data or prepare_data(prepared.rows, config, config.train, prepared.tokenizer)
    for line in fitted(data.facts, config.train):
        session.progress.say(line)
    teacher = tuned_teacher(session, prepared)
    # a store does not depend on the student's weights, so none is made for it
    job = method_job(session, prepared, teacher, prepared.base, data)
    made = filled(session, prepared, job, Models(teacher, prepared.base), kinds, every=True)
    folders = [str(session.cached("teacher-store", name)) for name in made.stored_as["stores"]]
    return {**made.stored_as, "folders": folders, "is_main": session.is_main}


def _storing(request: Request) -> Request:
    """The request with a store that is exact, unless it names another."""
    config: RunConfig = request.config
    if config.teacher.store != NONE:
        return request
    teacher = config.teacher.model_copy(update={"store": HIDDEN})
    return replace(request, config=config.model_copy(update={"teacher": teacher}))
