"""A run on several processes: torchrun around ``kdbench``, on one machine or on each of several.

``python -m kdbench.harness.study.executors.ranks --processes 2 -- run --method …`` starts them, and ends with
the exit code of the process that failed first, which torchrun's own command turns into 1: who started this
can tell a mistake from a killed process. No process outlives it, however it ends.
"""

import argparse
import ctypes
import os
import runpy
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdbench.harness.study.executors.meeting import LAUNCH, LAUNCHER, RANK, SIGNALLED, Meeting

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

PR_SET_PDEATHSIG = 1
MEETING_S = 900.0
"""Seconds in which all machines of a run come to the meeting place."""


def main() -> None:
    """Runs the processes to their end."""
    if launcher := os.environ.pop(LAUNCHER, ""):
        _tie(launcher)
    if RANK in sys.argv[1:2]:
        _be_a_rank()
    parser = argparse.ArgumentParser(prog=f"python -m {LAUNCH}")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--at", default="localhost:0")
    parser.add_argument("--name", default="")
    parser.add_argument("--joins", action="store_true")
    parser.add_argument("arguments", nargs="+")
    asked = parser.parse_args()
    meeting = Meeting(asked.nodes, asked.at, asked.name, not asked.joins)
    sys.exit(launch(asked.arguments, asked.processes, meeting))


def launch(arguments: Sequence[str], processes: int, meeting: Meeting) -> int:
    """Starts the processes of this machine and waits for them; the exit code is the first failure's."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=meeting.nodes,
        max_nodes=meeting.nodes,
        nproc_per_node=processes,
        run_id=meeting.name or f"kdbench-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint=meeting.place,
        # said, not guessed: a machine need not know all the names and addresses that it has
        rdzv_configs={"timeout": MEETING_S, "is_host": meeting.first},
        local_addr=_address(meeting) if meeting.nodes > 1 else None,
        max_restarts=0,  # what is done is for our markers to say: who started us starts us again
        monitor_interval=0.1,
    )
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)("-m", LAUNCH, RANK, *arguments)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in _in_order(error)]
        return next((_shown(code) for code in codes if code), 1)
    except SignalException as error:
        return SIGNALLED + int(error.sigval)
    return 0


def _address(meeting: Meeting) -> str:
    """How the other machines reach this one: the address from which it reaches the first."""
    host, _, port = meeting.place.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])


def _in_order(error: "ChildFailedError") -> "list[ProcessFailure]":
    """Failures by when they happened: first what was killed, which others stumble over, last what was
    only ended because another failed.
    """
    failures = list(error.failures.values())
    ended = (-signal.SIGTERM, SIGNALLED + signal.SIGTERM)
    return sorted(failures, key=lambda f: (f.exitcode in ended, f.exitcode > 0, f.timestamp))


def _shown(code: int) -> int:
    return code if code > 0 else SIGNALLED - code


def _tie(launcher: str) -> None:
    """Has this process killed when the one that started it ends."""
    tie = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
    if tie is not None:
        tie(PR_SET_PDEATHSIG, signal.SIGKILL)
        if str(os.getppid()) != launcher:  # it ended before we were tied to it
            os._exit(SIGNALLED + signal.SIGKILL)


def _be_a_rank() -> None:
    """One of the processes: ``kdbench`` itself."""
    sys.argv = ["kdbench", *sys.argv[2:]]
    runpy.run_module("kdbench.harness.cli", run_name="__main__", alter_sys=False)
    sys.exit(0)


if __name__ == "__main__":
    main()
