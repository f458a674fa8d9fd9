"""Which models a command tries before it trains, makes or downloads anything for them."""

from kdbench.harness.config import RunConfig
from kdbench.harness.errors import InputError
from kdbench.harness.preflight.flight import Flight, model_flight
from kdbench.harness.preflight.subject import Role, Subject
from kdbench.harness.runner.models import Located
from kdbench.harness.session import Session
from kdbench.trainers.devices import sampling_dtype


def subject_of(session: Session, located: Located, role: Role) -> Subject:
    """A model of the session's run as checks see it."""
    config = session.config
    return Subject(
        role=role,
        ref=located.ref,
        card=located.card,
        dtype=sampling_dtype(config.train.precision),
        device=session.device,
        tokens=longest(config),
        form=config.task_format if role == "model" else config.training_format,
        trained=role == "student",
    )


def longest(config: RunConfig) -> int:
    """Tokens of the longest sequence that a run's models may be given."""
    return config.train.max_length


def check_model(session: Session, located: Located, role: Role) -> None:
    """Tries one model and prints a line on it.

    Raises:
        InputError: kdbench cannot do with it what the run asks; the first reason found.
    """
    if not session.is_main:
        return
    flight = model_flight(subject_of(session, located, role), session.request.cache_dir)
    refuse(flight)
    session.progress.say(line(role, flight))


def refuse(flight: Flight) -> None:
    """Raises InputError for a preflight that found a reason not to go on."""
    if (failure := flight.failure) is not None:
        raise InputError(failure.found)


def line(whose: str, flight: Flight) -> str:
    """A preflight in one line."""
    when = "remembered" if flight.remembered else f"{flight.wall_s:.1f} s"
    warned = [f"; {what}: {found}" for what, found, state in flight.findings if state == "warn"]
    return f"preflight: {whose} fits ({when}; kdbench doctor says more){''.join(warned)}"
