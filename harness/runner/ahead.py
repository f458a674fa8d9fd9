"""The second process of a run: makes shared results that the first will need, see ``beside``.

Reads one line of JSON from standard input, and ends when that is closed; writes lines of JSON: ``line``, to
be shown, or ``error`` with ``code``, which ended it. Run as ``python -m kdbench.harness.runner.ahead``.
"""

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdbench.harness.config import Request, RunConfig
from kdbench.harness.errors import KdbenchError
from kdbench.harness.progress import Progress
from kdbench.harness.runner.data import prepare_data
from kdbench.harness.runner.jobs import method_job
from kdbench.harness.runner.prepare import init_student, prepare, tuned_teacher
from kdbench.harness.runner.references import evaluate_references
from kdbench.harness.runner.training import assembled
from kdbench.harness.session import Session, open_session

NEVER = 1e9
"""Seconds between the lines of a stage of which only the last is shown."""


def answers(session: Session) -> None:
    """The teacher's answers to the prompts of steps to come, as the run will ask for them."""
    prepared = prepare(session)
    config = session.config
    data = prepared.data or prepare_data(prepared.rows, config, config.train, prepared.tokenizer)
    teacher, start = tuned_teacher(session, prepared), init_student(session, prepared)
    loop = assembled(session, method_job(session, prepared, teacher, start, data))
    kind, ctx = loop.method.asks, loop.ctx
    if kind == "data":
        return
    steps = -(-len(ctx.prompts) // ctx.batch_size)  # then each was asked once
    with session.progress.stage("teacher answers", len(ctx.prompts), unit="prompt") as live:
        # the run is at the first ones itself by now
        for step in range(ctx.lookahead, min(steps, loop.steps or steps), ctx.lookahead):
            ctx.teacher_batch(step, greedy=kind == "teacher-greedy")
            live.update(min(len(ctx.prompts), (step + ctx.lookahead) * ctx.batch_size))


def references(session: Session) -> None:
    """The reference rows of the run's table."""
    evaluate_references(session, prepare(session))


WORK: dict[str, Callable[[Session], None]] = {
    "answers": answers,
    "references": references,
}


class _Told(io.StringIO):
    """A stream whose lines go to the first process."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = ""

    def write(self, text: str, /) -> int:
        """Passes on whole lines."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(None, lines):
            _tell(line=line)
        return len(text)


class _Stages(Progress):
    """Shows stages only: what else there is to say, the first process says itself."""

    def say(self, text: str) -> None:
        """Nothing."""


def _tell(**message: Any) -> None:
    print(json.dumps(message), file=sys.__stdout__, flush=True)


def _end_with_the_first() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Does what it is asked, in order; returns the exit code."""
    signal.signal(signal.SIGTERM, _stopped)
    asked = json.loads(sys.stdin.readline() or "{}")
    if not asked:
        return 0
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    progress = _Stages(stream=_Told())
    if not asked["lines"]:
        progress.first = progress.every = NEVER
    request = Request(
        config=RunConfig.model_validate(asked["config"]),
        runs_dir=Path(asked["runs_dir"]),
        data_dir=Path(asked["data_dir"]) if asked["data_dir"] else None,
        cache_dir=Path(asked["cache_dir"]),
        device="cpu",
        argv=tuple(asked["argv"]),
    )
    session = open_session(request, progress)
    for name in asked["work"]:
        WORK[name](session)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KdbenchError as error:
        _tell(error=str(error), code=error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
