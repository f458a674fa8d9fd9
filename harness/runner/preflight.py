"""Which models a command tries before it trains, makes or downloads anything for them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.config import RunConfig
from kdbench.harness.endpoints import place_of
from kdbench.harness.errors import InputError
from kdbench.harness.preflight import first_steps
from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.flight import Flight, fly, model_flight
from kdbench.harness.preflight.subject import Role, Subject
from kdbench.harness.runner.data import TrainingData, prepare_data, twins_of
from kdbench.harness.runner.models import Located, locate
from kdbench.harness.runner.rows import Rows
from kdbench.harness.runner.training import check_ids
from kdbench.harness.session import Session
from kdbench.tasks import mini
from kdbench.trainers.devices import sampling_dtype
from kdbench.trainers.lora.adapters import adapt
from kdbench.trainers.method import Method
from kdbench.trainers.models import config_from, initialise, moved
from kdbench.trainers.sampler.sampler import context_length


def subject_of(session: Session, located: Located, role: Role) -> Subject:
    """A model of the session's run as checks see it."""
    config = session.config
    tokens = config.train.max_length
    if role == "model":  # what is only evaluated ends its answers where its positions end
        tokens = min(tokens, context_length(config_from(located.ref)) or tokens)
    return Subject(
        role=role,
        ref=located.ref,
        card=located.card,
        dtype=sampling_dtype(config.train.precision),
        device=session.device,
        tokens=tokens,
        form=config.task_format if role == "model" else config.training_format,
    )


def check_model(session: Session, located: Located, role: Role) -> None:
    """Tries one model.

    Raises:
        InputError: kdbench cannot do with it what the run asks; the first reason found.
    """

    def look() -> None:
        flight = model_flight(subject_of(session, located, role), session.request.cache_dir)
        _note(session, role, flight)

    session.of_main(look)


def tried(session: Session, name: str) -> Located:
    """A model that is only evaluated, by its name; tried first.

    Raises:
        InputError: it is none, or kdbench cannot sample from it.
    """
    found = locate(name, name)
    check_model(session, found, "model")
    say_fit(session)
    return found


def _note(session: Session, whose: str, flight: Flight) -> None:
    """Keeps a preflight for the line on all; raises InputError for a reason not to go on."""
    session.flights.append((whose, flight))
    if (failure := flight.failure) is not None:
        raise InputError(failure.found)


def say_fit(session: Session) -> None:
    """One line on what was tried since the last, remembered ones left out, and what it warns of."""
    flights = session.flights[session.told :]
    session.told = len(session.flights)
    if not flights:
        return
    flown = sum(flight.wall_s for _, flight in flights if not flight.remembered)
    if flown:
        names = ", ".join(whose for whose, _ in flights)
        session.progress.say(f"preflight ({flown:.1f} s): {names}: fit; kdbench doctor says more")
    for whose, flight in flights:
        for what, found, state in flight.findings:
            if state == "warn":
                session.progress.say(f"note: {whose}: {what}: {found}")


# -- the pair


def check_pair(
    session: Session,
    method_class: type[Method],
    *,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    shared: int | None = None,
    models: tuple[Located, Located] | None = None,
) -> TrainingData | None:
    """Counts all rows as tokens and lets the method take its first steps.

    Args:
        session: the command; with several processes only adapters are tried, since steps would wait for all.
        method_class: of the run.
        tokenizer: the student's.
        rows: of the run.
        shared: ids that the teacher's has too; 0: it has its own. None: all.
        models: teacher and student; None where the generated world makes both, later.

    Returns:
        The rows as tokens; None if nothing had to be tried.

    Raises:
        InputError: this method cannot train this pair on these rows.
    """
    if session.accelerator().num_processes > 1:
        session.of_main(lambda: _try_adapters(session, models))
        return None
    config = session.config
    prepared: list[TrainingData] = []

    def data() -> Iterator[Finding]:
        prepared.append(prepare_data(rows, config, config.train, tokenizer))
        if shared:
            check_ids(prepared[0], tokenizer, shared)
        yield from _counted(prepared[0])

    def method() -> Iterator[Finding]:
        twins = partial(twins_of, rows, config, tokenizer, models[0].ref) if models else None
        rehearsal = _rehearsal(session, method_class, models, tokenizer, prepared[0])
        apart = shared == 0 and rehearsal.teacher is not None
        rehearsal = replace(rehearsal, twins=twins if apart else None, shared=shared or None)
        yield from first_steps.check(rehearsal)

    checks = {"data": data, "method": method}
    flight = fly(
        checks,
        whose=f"method {config.method.name}",
        parts=_parts(config, rows, models, session),
        cache=session.request.cache_dir,
    )
    _note(session, f"method {config.method.name}", flight)
    return prepared[0] if prepared else None


def _parts(
    config: RunConfig, rows: Rows, models: tuple[Located, Located] | None, session: Session
) -> dict[str, Any]:
    leave = {"steps", "epochs", "response_tokens", "seed", "init_seed", "save_every"}
    return {
        "pair": config.pair.model_dump(),
        "method": config.method.model_dump(),
        "train": config.train.model_dump(exclude=leave),
        "data": [config.data.boundary, config.data.text_tokens],
        "form": repr(config.training_format),
        "models": [[m.id, m.card.tokenizer] for m in models or ()],
        "rows": rows.fingerprints,
        "device": session.device.type,
    }


def _counted(data: TrainingData) -> Iterator[Finding]:
    """What became of the rows of each split."""
    for split, facts in data.facts.items():
        rows, kept = facts["rows"], facts["kept"]
        if split == "text":
            yield Finding(split, f"{kept} rows of {rows} documents")
            continue
        said = [f"{kept} of {rows} rows, {rows - kept} dropped" if kept < rows else f"{rows} rows"]
        for name, what in (("responses_cut", "responses cut"), ("prompts_cut", "prompts cut")):
            said += [f"{facts[name]} {what}"] if facts.get(name) else []
        yield Finding(split, ", ".join(said), "warn" if 2 * kept < rows else "ok")


def _try_adapters(session: Session, models: tuple[Located, Located] | None) -> None:
    lora = session.config.train.lora
    if lora is not None:
        student = _stand_in(session, "student", models[1] if models else None)
        first_steps.refuse_bypassed(adapt(student, lora, seed=0))


def _rehearsal(
    session: Session,
    method: type[Method],
    models: tuple[Located, Located] | None,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
) -> first_steps.Rehearsal:
    config = session.config
    teacher, student = models or (None, None)
    if teacher is not None and place_of(teacher.ref):
        teacher = student  # whose answers are as good to try the steps with
    taught = method.card.teacher_logits or method.card.teacher_samples
    options = method.Config.model_validate(config.method.options)
    return first_steps.Rehearsal(
        name=config.method.name,
        method=lambda: method(options),
        recipe=config.train,
        student=partial(_stand_in, session, "student", student),
        teacher=partial(_stand_in, session, "teacher", teacher) if taught else None,
        tokenizer=tokenizer,
        twins=None,
        end_id=data.end_id,
        shared=None,
        train=data.train,
        text=data.text,
        accelerator=session.accelerator(config.train),
    )


def _stand_in(session: Session, role: Role, located: Located | None) -> PreTrainedModel:
    """A small model that computes as one of the pair does; the student's in float32."""
    pair = session.config.pair
    if located is None:
        world = mini.world_model(pair.student if role == "student" else pair.teacher)
        assert world is not None, "only the world's models are made later"
        made = initialise(mini.model_config(world[1], world[0]), 0)
        return moved(made, device=session.device)
    subject = subject_of(session, located, role)
    return subject.cut.float() if role == "student" else subject.cut
