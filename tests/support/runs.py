"""Real kdbench processes: started, watched, killed, and their results compared byte by byte."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

COMMAND = [sys.executable, "-c", "from kdbench.harness.cli import main; main()"]


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A kdbench process in a group of its own."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(*arguments: str, **environment: str) -> str:
    """Runs kdbench to its end; fails with its output if it does not exit with 0."""
    process = start(*arguments, **environment)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-4000:]
    return output


def kill_when(
    process: subprocess.Popen[str], ready: Callable[[], bool], timeout: float = 300
) -> bool:
    """Sends SIGKILL to the process group once ``ready()``; False if it ended by itself first."""
    deadline = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None:
            process.communicate()  # closes its pipe
            return False
        assert time.monotonic() < deadline, "the process never got there"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return True


def lines(path: Path) -> int:
    """Whole lines of a file that may not exist."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def results(run: Path) -> dict[str, bytes]:
    """What must not depend on interruptions: the student's weights and every sample and score."""
    files = [*run.glob("train/student/*.safetensors"), *run.glob("eval/*/s*.jsonl")]
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(files)}


def benchmark(name: str) -> ModuleType:
    """A script of the benchmarks as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as of a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
