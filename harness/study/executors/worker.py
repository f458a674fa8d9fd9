"""What all executors share: a started worker, its command line and its environment."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kdbench.harness.errors import InputError
from kdbench.harness.files.folders import cache_folder
from kdbench.harness.study.executors.meeting import (
    LAUNCH,
    LAUNCHER,
    RANK,
    SIGNALLED,
    Meeting,
    options,
)

LOST = -1
"""Exit code of a worker that nobody can say anything about."""
INTERRUPTED = 130
"""Exit code of a worker that somebody ended by Ctrl-C: not lost."""
LISTEN_EVERY = 0.5
"""Seconds after which a wait looks whether it was interrupted; Ray's way to do so wakes no system call."""
ENDING_S = 10.0
"""Seconds in which a worker that was asked to end does so, before its place may be another's."""


COMMAND = (sys.executable, "-m", "kdbench.harness.cli")


class Handle:
    """A started worker.

    Args:
        look: its exit code (negative: lost or killed), or None while it runs or waits for a place.
        stop: asks it to end soon; what it has done so far stays.
        name: what a person finds it by.
    """

    def __init__(
        self, look: Callable[[], int | None], stop: Callable[[], object], name: str = ""
    ) -> None:
        self._look = look
        self._stop = stop
        self.name = name
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or None; once known it stays."""
        if self._code is None:
            self._code = self._look()
        return self._code

    def stop(self) -> None:
        """Asks it to end, unless it has."""
        if self.poll() is None:
            self._stop()


def lost(code: int) -> bool:
    """Whether an exit code says that a worker was killed, by any signal, rather than that it failed."""
    return code < 0 or (code > SIGNALLED and code != INTERRUPTED)


def code_of_all(codes: Sequence[int]) -> int:
    """Exit code of a run whose workers on several nodes ended so: what was lost made the others fail."""
    return next((code for code in codes if lost(code)), max(codes, default=0))


class Executor(Protocol):
    """Starts workers."""

    jobs: int
    """How many may be started at once."""

    def start(self, arguments: list[str], log: Path, slot: int) -> Handle:
        """Runs ``kdbench`` with ``arguments`` in a process of its own, its output added to ``log``.

        Args:
            arguments: of the command line.
            log: file on a disk that all workers share.
            slot: number of the place that is free, from 0 to ``jobs`` - 1.

        Raises:
            InputError: a scheduler refuses it.
        """

    def slots_of(self, processes: Sequence[int]) -> list[int]:
        """The places of workers that an earlier driver started on this machine, by their process ids.

        Empty where a scheduler knows by itself what its machines are doing.
        """

    def close(self) -> None:
        """Lets go of what the executor holds; workers may live on."""


def spawn(
    arguments: list[str],
    log: Path | str,
    variables: Mapping[str, str],
    *,
    processes: int = 1,
    meeting: Meeting | None = None,
    **more: Any,
) -> "subprocess.Popen[bytes]":
    """A ``kdbench`` process of the Python that runs us, or what starts several; output is added to ``log``.

    Args:
        arguments: of the command line.
        log: a file.
        variables: of its environment, beside our own.
        processes: of the run on this machine; see `kdbench.harness.study.executors.ranks`.
        meeting: where they meet those of other machines; None: there are none.
        more: of ``subprocess.Popen``.
    """
    command = [*COMMAND, *arguments]
    if processes > 1 or meeting is not None:
        launcher = options(processes, meeting or Meeting())
        command = [sys.executable, "-m", LAUNCH, *launcher, "--", *arguments]
    elif LAUNCHER in variables:
        command = [sys.executable, "-m", LAUNCH, RANK, *arguments]
    with open(log, "ab") as sink:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            **more,
        )


def shared_variables(threads: int) -> dict[str, str]:
    """What a worker needs in its environment wherever it runs.

    Its share of the cores, no module taken from the folder it is started in, and our settings.
    """
    ours = {k: v for k, v in os.environ.items() if k.startswith(("KDBENCH_", "HF_"))}
    cores = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    cache = {"KDBENCH_CACHE": str(cache_folder().resolve())}
    return {**ours, **cores, **cache, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def check_settings(kind: str, settings: Mapping[str, str], known: Sequence[str]) -> None:
    """InputError for a setting that an executor does not have."""
    for key in settings.keys() - set(known):
        raise InputError(f"executor {kind} has no setting {key!r}; it has {', '.join(known)}")


def extra(package: str, kind: str) -> Any:
    """The module of an executor that is an extra; InputError if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"executor {kind} needs {package}; install it with: pip install 'kdbench[{kind}]'"
        ) from error


def whole_setting(settings: Mapping[str, str], key: str, default: int, least: int = 1) -> int:
    """A setting that is a whole number of at least ``least``; InputError if it is none."""
    text = settings.get(key, str(default))
    if text.isdecimal() and int(text) >= least:
        return int(text)
    raise InputError(
        f"executor setting {key} must be a whole number of at least {least}, got {text!r}"
    )


def number_setting(settings: Mapping[str, str], key: str, default: float) -> float:
    """A setting that is a number of at least 0; InputError if it is none."""
    text = settings.get(key, str(default))
    with contextlib.suppress(ValueError):
        if float(text) >= 0:
            return float(text)
    raise InputError(f"executor setting {key} must be a number of at least 0, got {text!r}")


def run_worker(
    arguments: list[str],
    log: str,
    cwd: str,
    variables: dict[str, str],
    processes: int = 1,
    meeting: Meeting | None = None,
) -> int:
    """Runs a worker to its end on whatever machine this is called; returns its exit code.

    Called by schedulers in processes of theirs. If they end such a process, the worker ends too.
    """
    # tied to this process, so that what a scheduler kills is not continued by what is left of it
    tied = {**variables, LAUNCHER: str(os.getpid())}
    worker = spawn(arguments, log, tied, processes=processes, meeting=meeting, cwd=cwd)

    def end(*_: object) -> None:
        worker.send_signal(signal.SIGTERM)

    # outside the main thread not allowed: there the scheduler ends the whole process group
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, end)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return worker.wait(timeout=LISTEN_EVERY)
    except BaseException:
        end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=ENDING_S)
        worker.kill()  # what it holds is the scheduler's again
        raise
