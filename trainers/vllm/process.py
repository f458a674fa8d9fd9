"""The process that vLLM runs in, from this side: which interpreter, started, spoken to, ended."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kdbench.harness import launch
from kdbench.harness.errors import CellFailed, InputError
from kdbench.trainers.vllm.about import About, about
from kdbench.trainers.vllm.places import HeldFolder, held_folder

INTERPRETER = "KDBENCH_VLLM_PYTHON"
"""Environment variable: the interpreter of an environment with vLLM and kdbench; else this one is used."""

WORKER = "kdbench.trainers.vllm.worker"
MEMORY = Path("/dev/shm")
"""A folder whose files lie in memory, on most machines; in many containers it has room for 64 MB."""
SPARE = 1.2
"""How much more room there has to be than what is written."""
_OURS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCH(ELASTIC|_NCCL)_.*"
)
"""Variables of a training on several processes: vLLM would take them for its own."""

# One process, so that it ends with this one; nobody is told that it runs.
_QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def interpreter() -> str:
    """The Python that vLLM is asked for in."""
    return os.environ.get(INTERPRETER) or sys.executable


def check_installed() -> About:
    """What answers with vLLM here, without starting it.

    Raises:
        InputError: vLLM, or this kdbench, is not there.
    """
    python = interpreter()
    if python == sys.executable:
        return _fit(about(), python)
    try:
        done = subprocess.run(
            [python, "-m", WORKER, "--about"], capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(
            f"{INTERPRETER}={python} is no Python that can be run ({error}); name the interpreter of an "
            "environment in which kdbench[vllm] is installed"
        ) from error
    if done.returncode:
        raise InputError(
            f"{INTERPRETER}={python} does not run kdbench ({_last(done.stderr)}); install kdbench[vllm] in "
            "that environment"
        )
    return _fit(json.loads(done.stdout)["about"], python)


def _fit(found: About, python: str) -> About:
    if found["vllm"] is None:
        raise InputError(
            f"generate.engine=vllm needs vLLM, which {python} does not have; install kdbench[vllm] there, or "
            f"in an environment of its own whose Python {INTERPRETER} names, or leave the setting out"
        )
    if found["code"] != about()["code"]:
        raise InputError(
            f"the kdbench of {python} is another version than this one, and could draw other answers; "
            "install the same in both environments"
        )
    return found


class Process:
    """A running worker. It ends when this object goes, or its owner's process does.

    Args:
        device: a GPU is given as ``cuda:N``.

    Attributes:
        about: what it says of itself.
        folder: its own, of which it reads what model it has.
    """

    def __init__(self, device: str) -> None:
        self.about = check_installed()
        self._held = HeldFolder()
        self.folder = self._held.path
        self._log = self.folder / "log.txt"
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [interpreter(), "-m", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=_environment(device),
            )
        weakref.finalize(self, _end, self._process, self._held)
        self._reply("about")

    def tell(self, do: str, **what: Any) -> None:
        """One thing to do, done when this returns."""
        for _ in self.ask(do, **what):
            raise CellFailed(
                f"vLLM's process answered {do!r} with something else; please report it"
            )

    def ask(self, do: str, **what: Any) -> Iterator[dict[str, Any]]:
        """One thing to do, and the answers as they come.

        Raises:
            CellFailed: it could not do it, or ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{json.dumps({'do': do, **what})}\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended(str(error)) from error
        while "done" not in (reply := self._reply(do)):
            yield reply["answer"]

    def close(self) -> None:
        """Ends it and takes its folder away."""
        _end(self._process, self._held)

    def _reply(self, do: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended(f"while it was told to {do}")
        reply: dict[str, Any] = json.loads(line)
        if "failed" in reply:
            raise CellFailed(f"vLLM could not {do}: {reply['failed']}")
        return reply

    def _ended(self, when: str) -> CellFailed:
        code = self._process.wait()
        said = _last(self._log.read_text("utf-8", "replace")) if self._log.exists() else "nothing"
        return CellFailed(f"vLLM's process ended ({code}) {when}; the last that it said: {said}")


def _environment(device: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _OURS.fullmatch(name)}
    own = dict(_QUIET)
    if device == "cpu":
        own["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # this process waits meanwhile
    elif ":" in device:
        index = int(device.partition(":")[2])
        seen = [each for each in kept.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        own["CUDA_VISIBLE_DEVICES"] = seen[index] if seen else str(index)
    return {"VLLM_LOGGING_LEVEL": "WARNING", **kept, **own}


@contextlib.contextmanager
def between(size: int) -> Iterator[Path]:
    """A folder for weights that one process hands to another: its files lie in memory if there is room.

    Args:
        size: bytes; each process of this machine may hand over as many.
    """
    wanted = SPARE * size * launch.local_world()
    roomy = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > wanted
    with held_folder(MEMORY if roomy else None) as folder:
        yield folder


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing"


def _end(process: "subprocess.Popen[str]", held: HeldFolder) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    held.release()
