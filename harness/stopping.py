"""Ctrl-C and SIGTERM end a command alike, and never inside an import.

An exception that rises while a library's compiled part sets itself up (torch's takes seconds) aborts the
process there, with frames of C++ and no word of how to go on. So a signal that comes then waits until the
import is through.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from kdbench.harness import launch

AGAIN = 0.05
"""Seconds after which a signal that came in an import is sent again."""


@contextlib.contextmanager
def stoppable() -> Iterator[list[int]]:
    """SIGTERM ends a command as Ctrl-C does; a second one at once. Yields the SIGTERMs that came.

    Ctrl-C stays ignored where it is (in the background of a shell), and where this is not the main thread
    nothing is changed.
    """
    came: list[int] = []
    mine = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == mine and importing(frame):
            later = threading.Timer(AGAIN, os.kill, (mine, number))
            later.daemon = True
            later.start()
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != mine:  # a forked helper has nothing to say
            os.kill(os.getpid(), number)
        came.append(number)
        raise KeyboardInterrupt

    before: dict[int, signal.Handlers | None] = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)  # type: ignore[assignment]
        if launch.speaks():  # one process of several says how to go on, the others just end
            before[signal.SIGTERM] = signal.signal(signal.SIGTERM, stop)  # type: ignore[assignment]
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def importing(frame: FrameType | None) -> bool:
    """Whether this frame runs below an import statement."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
