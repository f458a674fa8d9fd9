"""What a run will need later, made by a second process of ours while the first one trains.

While a student trains, the teacher's answers to coming prompts and the reference rows can be made. Two
processes of one thread each keep two cores busier than one training of small matrices does with two threads.
All of it are shared results under locks, made by whoever comes first, with the same bytes whatever the number
of threads: the second process (`kdbench.harness.runner.ahead`) is only another that comes first. When it is
gone, for whatever reason, the first one makes what is missing.

It lives as long as the block that it was started for, gets half of the threads and gives them back, and is
told to end when that block ends. One that dies of a kill takes its pipe with it, which ends the other.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

import torch

from kdbench.harness.errors import CellFailed, InputError, KdbenchError
from kdbench.harness.runner.models import same_world
from kdbench.harness.session import Session
from kdbench.tasks import mini

COMMAND = (sys.executable, "-m", "kdbench.harness.runner.ahead")
WORTH = 1000
"""Training rows of a world from which a second process's start, seconds of a core, is worth its while."""
PATIENCE = 10.0  # seconds that a process told to end may take


@contextlib.contextmanager
def beside(session: Session, *work: str) -> Iterator[None]:
    """Has some work of `kdbench.harness.runner.ahead` done beside the block, if cores are free for it.

    Args:
        session: the command.
        work: what to do, in this order; nothing: no process is started.

    Raises:
        KdbenchError: the other process ended with this sentence.
    """
    if not work or not _room(session):
        yield
        return
    threads = torch.get_num_threads()
    helper = Helper(session, work, threads)
    session.meanwhile = helper.look
    torch.set_num_threads(threads - threads // 2)
    try:
        yield
    finally:
        session.meanwhile = None
        helper.stop()
        torch.set_num_threads(threads)


def _room(session: Session) -> bool:
    """Whether there are threads to share, and models so small that two processes can hold them."""
    config = session.config
    small = same_world(config.pair) and mini.SIZES[_size(session)]["train"] >= WORTH
    alone = session.accelerator().num_processes == 1
    return small and alone and session.device.type == "cpu" and torch.get_num_threads() > 1


def _size(session: Session) -> str:
    return session.config.pair.teacher.partition(":")[0]


class Helper:
    """The second process.

    Args:
        session: the command; its progress shows what the process says.
        work: what it does.
        threads: of both; they are this process's own again when the other has ended.
    """

    def __init__(self, session: Session, work: tuple[str, ...], threads: int) -> None:
        self._say, self._work, self._threads = session.progress.say, " and ".join(work), threads
        self._failed: KdbenchError | None = None
        self._ended = False
        share = str(threads // 2)
        variables = {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share, "PYTHONSAFEPATH": "1"}
        variables["KDBENCH_CACHE"] = str(session.request.cache_dir.resolve())
        self._last_words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._last_words,
            env=os.environ | variables,
            text=True,
        )
        self._reader = threading.Thread(target=self._listen, name="kdbench-beside", daemon=True)
        self._reader.start()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(_asked(session, work)) + "\n")
            self._process.stdin.flush()

    def look(self) -> None:
        """Raises what ended the other process; takes over its threads when it is done."""
        if self._ended or self._process.poll() is None:
            return
        self._ended = True
        torch.set_num_threads(self._threads)
        self._reader.join()
        if self._failed is not None:
            raise self._failed
        if code := self._process.returncode:
            self._last_words.seek(0)
            lines = self._last_words.read().decode(errors="replace").strip().splitlines()
            why = f": {lines[-1]}" if lines else ""
            self._say(
                f"note: the process that made {self._work} beside this one ended ({code}{why}); "
                "this one goes on alone"
            )

    def stop(self) -> None:
        """Ends the other process, wherever it is: what it has made stays, what it has begun goes on here."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._last_words.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError):  # a word of some library
                told: dict[str, Any] = json.loads(line)
                if "error" in told:
                    kind = InputError if told["code"] == InputError.exit_code else CellFailed
                    self._failed = kind(told["error"])
                else:
                    self._say(told["line"])


def _asked(session: Session, work: tuple[str, ...]) -> dict[str, Any]:
    """All that the other process needs to know."""
    request = session.request
    return {
        "work": work,
        "config": request.config.model_dump(mode="json"),
        "runs_dir": str(request.runs_dir),
        "data_dir": str(request.data_dir) if request.data_dir else None,
        "cache_dir": str(request.cache_dir.resolve()),
        "argv": request.argv,
        # a line that moves has no room for a second one: then only what stays is told
        "lines": not session.progress.moving,
    }
