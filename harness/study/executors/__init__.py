"""Who runs the processes of a study: this machine, a Ray cluster, or Slurm.

An executor starts a command and says whether it is still there. What became of the run is read from
its folder, never from a scheduler.
"""

from pathlib import Path

from kdbench.harness.errors import InputError
from kdbench.harness.study.executors.local import LocalExecutor
from kdbench.harness.study.executors.on_ray import RayExecutor
from kdbench.harness.study.executors.on_slurm import SlurmExecutor
from kdbench.harness.study.executors.worker import Executor


def make_executor(name: str, jobs: int | None, out: Path, device: str = "auto") -> Executor:
    """``local``, ``ray`` or ``slurm``, with settings after a colon: ``slurm:partition=gpu``.

    Args:
        name: kind and settings.
        jobs: workers at once; None: as many as the executor has room for.
        out: folder of the study.
        device: what the workers are told to use.

    Raises:
        InputError: no such executor, a malformed setting, or an extra that is not installed.
    """
    kind, _, rest = name.partition(":")
    settings = dict(_setting(part, name) for part in _parts(rest) if part)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    if kind == "local":
        return LocalExecutor(jobs, settings, device)
    if kind == "ray":
        return RayExecutor(jobs, settings, device)
    if kind == "slurm":
        return SlurmExecutor(jobs, settings, out)
    raise InputError(f"no executor is called {kind!r}; choose from local, ray, slurm")


def _parts(text: str) -> list[str]:
    """Text between commas, save those in brackets and in quotes that begin a value."""
    parts, depth, quote, before = [""], 0, "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"" and before in tuple("=[{,:'\""):
            quote = sign
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append("")
            before = ""
            continue
        parts[-1] += sign
        before = sign if sign.strip() else before
    return parts


def _setting(part: str, name: str) -> tuple[str, str]:
    key, sign, value = part.partition("=")
    if not sign or not key:
        raise InputError(f"--executor {name}: write key=value after the colon, got {part!r}")
    return key, value
