"""A process that has imported everything and forks one kdbench command a request; see `crashes`.

Started with ``crash_points.c`` preloaded, it reads requests as JSON lines on standard input and answers
each with one. It never trains itself: autograd's threads would not survive a fork.
"""

import ctypes
import functools
import gc
import importlib
import json
import os
import sys
import traceback
from importlib import metadata
from typing import Any, NoReturn

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    warm()
    library = ctypes.CDLL(None)
    library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    reply({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(job, library)
        _, status = os.waitpid(pid, 0)
        if job["whole"]:  # workers that outlived a driver
            wait_for_all()
        reply({"code": os.waitstatus_to_exitcode(status)})


MODULES = (
    "kdbench.harness.cli",
    "kdbench.harness.judge.client",
    "kdbench.harness.judge.command",
    "kdbench.harness.runner.commands",
    "kdbench.harness.study.command",
    "kdbench.harness.study.executors.local",
    "kdbench.reports.ablation",
    "kdbench.reports.board",
    "kdbench.reports.figures.ablation",
    "kdbench.trainers.loop",
    "matplotlib.figure",
)


def warm() -> None:
    """Imports, and what every command works out again from the same machine."""
    for name in ("version", "entry_points"):  # read from disk at every call
        setattr(metadata, name, functools.cache(getattr(metadata, name)))
    for module in MODULES:
        importlib.import_module(module)
    import torch

    from kdbench.harness import provenance
    from kdbench.harness.own_methods import METHODS
    from kdbench.harness.probes import PROBES
    from kdbench.harness.probes.subject import find_probe
    from kdbench.harness.registry import find_method
    from kdbench.tasks import mini

    torch.set_num_threads(1)
    provenance.code_state()
    for name in METHODS:
        find_method(name)
    for name in PROBES:
        find_probe(name)
    for split in ("train", "dev"):
        mini.rows(split, size="mini-test")
    mini.build_tokenizer()
    gc.collect()
    gc.freeze()  # a collection in a child need not look at all of this


def run(job: dict[str, Any], library: ctypes.CDLL) -> NoReturn:
    """The child: a kdbench command whose file operations are counted."""
    sink = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    from kdbench.harness.study.executors import local

    local.spawn = spawn
    roots = [root.encode() for root in job["roots"]]
    trace = job["trace"].encode() if job["trace"] else None
    library.crash_arm(*roots, ctypes.c_long(job["at"]), job["how"], trace)
    command(job["arguments"])


def command(arguments: list[str]) -> NoReturn:
    """A command line, to its end."""
    from kdbench.harness import cli

    sys.argv = ["kdbench", *arguments]
    code = 1
    try:
        cli.main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Forked:
    """A worker of a study, as `subprocess.Popen` shows it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def spawn(arguments: list[str], log: object, variables: dict[str, str], **_: object) -> Forked:
    """What `worker.spawn` does, without a new Python's imports."""
    pid = os.fork()
    if pid:
        return Forked(pid)
    os.setsid()
    sink = os.open(str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.update(variables)
    command(arguments)


def wait_for_all() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def reply(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
