"""kdbench processes forked from one that has imported everything: real ones, without the start-up.

For tests that kill many of them; `runs` starts the command line itself.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["kdbench.harness.verbs.run", "kdbench.harness.runner.commands", "kdbench.trainers.loop"]
)


def start(*arguments: object) -> BaseProcess:
    """A process that runs a command line; its output is kept in ``process.name``."""
    handle, output = tempfile.mkstemp(prefix="kdbench-", suffix=".log")
    os.close(handle)
    process = _context.Process(
        target=_main, args=([str(a) for a in arguments], dict(os.environ), output), name=output
    )
    process.start()
    return process


def finish(*arguments: object) -> None:
    """Runs a command line to its end; fails with its output if it does not exit with 0."""
    process = start(*arguments)
    process.join(900)
    assert process.exitcode == 0, Path(process.name).read_text()[-4000:]
    os.unlink(process.name)


def kill_when(process: BaseProcess, ready: Callable[[], bool], timeout: float = 300) -> bool:
    """Sends SIGKILL once ``ready()``; False if the process ended by itself first."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not process.is_alive():
            return False
        assert time.monotonic() < deadline, "the process never got there"
        time.sleep(0.002)
    process.kill()
    process.join()
    os.unlink(process.name)
    return True


def _main(arguments: list[str], environment: dict[str, str], output: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sink = os.open(output, os.O_WRONLY | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    from kdbench.harness import cli

    cli.main(arguments)
