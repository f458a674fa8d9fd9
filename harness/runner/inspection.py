"""``kdbench doctor`` of a pair: the preflight of a run, shown and gone no further."""

from collections.abc import Iterator

from kdbench.harness.config import Request
from kdbench.harness.errors import KdbenchError
from kdbench.harness.preflight.finding import Finding
from kdbench.harness.progress import Progress
from kdbench.harness.runner.models import locate
from kdbench.harness.runner.preflight import check_model
from kdbench.harness.runner.prepare import prepare, raw_teacher
from kdbench.harness.session import open_session


def inspect(request: Request, teacher: str | None, student: str | None) -> Iterator[Finding]:
    """What a run of the request would find out before it trains.

    Args:
        request: a run's.
        teacher: as named, or None: only the student is looked at.
        student: the same for it.
    """
    session = open_session(request, Progress(quiet=True))
    refused: KdbenchError | None = None
    try:
        if teacher and student:
            prepare(session)
        elif teacher:
            raw_teacher(session)
        elif student:
            check_model(session, locate(student, student), "student")
    except KdbenchError as error:
        refused = error
    for whose, flight in session.flights:
        when = "remembered" if flight.remembered else f"took {flight.wall_s:.1f} s"
        yield Finding("preflight", f"{whose}, {when}:")
        yield from flight.findings
    if refused is not None and not any(flight.failure for _, flight in session.flights):
        yield Finding("pair", str(refused), "fail")
