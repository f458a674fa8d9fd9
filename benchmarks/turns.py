"""Two sides in turns, each turn in a process of its own: what step benchmarks share."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCH = 8
LR = 1e-5
KEYS = (
    "tokens_per_second",
    "seconds_per_step",
    "cpu_seconds_per_step",
    "peak_memory_mb",
    "loaded_memory_mb",
    "increase_mb",
)


def status_mb(field: str) -> float:
    """A memory field of this process in MiB, e.g. ``VmRSS``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return float("nan")


def peak_mb() -> float:
    """Peak memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Recorder:
    """Collects what a side reports after each of its steps; the first is not timed."""

    def __init__(self) -> None:
        self.loaded_mb = status_mb("VmRSS")
        self.losses: list[float] = []
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.peak_mb = 0.0

    def step(self, loss: float) -> None:
        """Call right after an optimiser step."""
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.losses.append(loss)
        self.peak_mb = peak_mb()

    def report(self, tokens: list[int]) -> dict[str, Any]:
        """Numbers of this process; ``tokens`` are the non-padding tokens of each step."""
        timed = len(self.ends) - 1
        seconds = self.ends[-1] - self.ends[0]
        each = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        return {
            "tokens_per_second": sum(tokens[1:]) / seconds,
            "seconds_per_step": statistics.median(each),
            "cpu_seconds_per_step": (self.cpu[-1] - self.cpu[0]) / timed,
            "peak_memory_mb": self.peak_mb,
            "loaded_memory_mb": self.loaded_mb,
            "increase_mb": self.peak_mb - self.loaded_mb,
            "losses": self.losses,
        }


def pruned(teacher_path: str) -> Any:
    """The student: 8 evenly spaced layers of the teacher, float32."""
    import torch

    from kdbench.trainers.models import load_model, prune

    return prune(load_model(teacher_path, dtype=torch.float32), 8)


def child_process(script: str, side: str, arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """One turn in a process of its own; its last line is the result."""
    command = [sys.executable, script, *arguments, "--child", side]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"the {side} side failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def in_turns(
    script: str, name: str, arguments: Sequence[str], *, turns: int, threads: int, peer: bool = True
) -> dict[str, Any]:
    """Medians of both sides over their turns, and ours over the peer's.

    Args:
        script: file of the benchmark; takes ``--child ours`` and ``--child peer``.
        name: printed before each line.
        arguments: passed on to it.
        turns: of each side.
        threads: of a side.
        peer: whether there is another side.
    """
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []} if peer else {"ours": []}
    for number in range(turns):
        for side in list(found) if number % 2 == 0 else reversed(list(found)):
            result = child_process(script, side, arguments, threads)
            found[side].append(result)
            print(
                f"{name:9} turn {number + 1} {side:5} {result['tokens_per_second']:8.1f} tokens/s"
                f" {result['seconds_per_step']:7.3f} s/step"
                f" ({result['cpu_seconds_per_step']:.3f} of cores)"
                f" {result['peak_memory_mb']:8.0f} MiB peak"
                f" (+{result['increase_mb']:.0f} over loaded models)",
                flush=True,
            )
    sides: dict[str, Any] = {
        s: {k: statistics.median(turn[k] for turn in t) for k in KEYS} | {"losses": t[0]["losses"]}
        for s, t in found.items()
    }
    for side in sides:
        print(f"{name:9} losses {side} " + " ".join(f"{x:.4f}" for x in sides[side]["losses"]))
    if not peer:
        return sides
    ours, other = sides["ours"], sides["peer"]
    ratio = {
        "tokens_per_second": ours["tokens_per_second"] / other["tokens_per_second"],
        "step": other["seconds_per_step"] / ours["seconds_per_step"],
        "cpu_step": other["cpu_seconds_per_step"] / ours["cpu_seconds_per_step"],
        "peak_memory": ours["peak_memory_mb"] / other["peak_memory_mb"],
        "memory_increase": ours["increase_mb"] / other["increase_mb"],
    }
    gaps = [abs(a - b) / abs(b) for a, b in zip(ours["losses"], other["losses"], strict=True)]
    print(
        f"{name:9} ours/peer: {ratio['tokens_per_second']:.2f} x tokens/s,"
        f" {ratio['cpu_step']:.2f} x by time of cores, {ratio['peak_memory']:.2f} x peak memory;"
        f" losses differ by at most {max(gaps):.2%}",
        flush=True,
    )
    return sides | {"ratio": ratio, "loss_gap": max(gaps)}
