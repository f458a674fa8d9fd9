"""What a command line asks of a study, its parts given one by one."""

from pathlib import Path
from typing import Any

from kdbench.harness.study.command import StudyRequest

SILENT: dict[str, Any] = {
    "name": "",
    "changes": {},
    "settings": (),
    "data_dir": None,
    "device": "cpu",
    "accept_drift": False,
    "executor": "local",
    "jobs": None,
    "keep_going": False,
    "out": None,
    "json_output": False,
    "quiet": True,
}


def study_request(runs_dir: Path, **asked: Any) -> StudyRequest:
    """One on this machine that prints nothing, with ``asked`` in the place of its parts."""
    return StudyRequest(runs_dir=runs_dir, **SILENT | asked)
