"""What starts a run of several processes, as executors say it to `kdbench.harness.study.executors.ranks`.

That module is run, not imported: whoever imports it here would have it twice.
"""

from typing import NamedTuple

LAUNCH = "kdbench.harness.study.executors.ranks"
RANK = "--as-rank"
LAUNCHER = "KDBENCH_LAUNCHER"
"""Variable with the id of the process that a started one ends with."""
SIGNALLED = 128
"""Shells add it to the number of the signal that ended a process."""


class Meeting(NamedTuple):
    """Where the machines of one run find each other.

    Attributes:
        nodes: how many there are.
        place: ``host:port`` of the first; port 0 for a machine alone: any that is free.
        name: of the run, so that no other is joined.
        first: whether this machine is the one where they meet.
    """

    nodes: int = 1
    place: str = "localhost:0"
    name: str = ""
    first: bool = True


def options(processes: int, meeting: Meeting) -> list[str]:
    """Of the module's command line, in front of ``--`` and the arguments of ``kdbench``."""
    said = ["--processes", str(processes), "--nodes", str(meeting.nodes)]
    said += ["--at", meeting.place, "--name", meeting.name]
    return said if meeting.first else [*said, "--joins"]
