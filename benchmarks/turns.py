"""Two sides in turns, medians over them, and what a turn in a process of its own says of itself."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


class Timed(NamedTuple):
    """Sides in turns.

    Attributes:
        turns: what each said, in order.
        medians: over them, of each side by key.
    """

    turns: dict[str, list[Mapping[str, Any]]]
    medians: dict[str, dict[str, float]]

    def ratio(self, key: str, side: str, other: str) -> float:
        """One side's median over another's."""
        return self.medians[side][key] / self.medians[other][key]


def timed(
    sides: Iterable[str],
    take: Callable[[str, int], Mapping[str, Any]],
    *,
    turns: int,
    keys: Sequence[str],
) -> Timed:
    """Sides take turns, and who begins changes with each, so that a drift of the machine hits all alike.

    Args:
        sides: their names; the first begins the first turn.
        take: a side's turn, by the turn's number from 0.
        turns: of each side.
        keys: of what a turn says, the numbers.
    """
    order = list(sides)
    found: dict[str, list[Mapping[str, Any]]] = {side: [] for side in order}
    for turn in range(turns):
        for side in order[:: -1 if turn % 2 else 1]:
            found[side].append(take(side, turn))
    medians = {
        side: {key: statistics.median(row[key] for row in rows) for key in keys}
        for side, rows in found.items()
    }
    return Timed(found, medians)


def step_options(doc: str | None, *, steps: int) -> argparse.ArgumentParser:
    """Options of a benchmark whose turns are steps of training."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--teacher", required=True, help="folder or hub id of the teacher")
    parser.add_argument("--turns", type=int, default=3, help="turns of each side")
    parser.add_argument(
        "--steps", type=int, default=steps, help="steps a turn; the first is not timed"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp32"),
        default="bf16",
        help="of both sides; fp32 is the peer's better one on a CPU without instructions for bf16",
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--child", choices=("ours", "peer"), help=argparse.SUPPRESS)
    return parser


def begin(threads: int) -> None:
    """What a turn does first in its process."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)


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
    script: str, name: str, asked: argparse.Namespace, *arguments: str, peer: bool = True
) -> dict[str, Any]:
    """Medians of both sides over their turns, and ours over the peer's.

    Args:
        script: file of the benchmark; takes ``--child ours`` and ``--child peer``.
        name: printed before each line.
        asked: its `step_options`.
        arguments: passed on to it beside these.
        peer: whether there is another side.
    """
    passed = [
        f"--{key}={getattr(asked, key)}" for key in ("teacher", "steps", "threads", "precision")
    ]

    def take(side: str, turn: int) -> dict[str, Any]:
        result = child_process(script, side, [*passed, *arguments], asked.threads)
        print(
            f"{name:9} turn {turn + 1} {side:5} {result['tokens_per_second']:8.1f} tokens/s"
            f" {result['seconds_per_step']:7.3f} s/step"
            f" ({result['cpu_seconds_per_step']:.3f} of cores)"
            f" {result['peak_memory_mb']:8.0f} MiB peak"
            f" (+{result['increase_mb']:.0f} over loaded models)",
            flush=True,
        )
        return result

    found = timed(["ours", "peer"][: 1 + peer], take, turns=asked.turns, keys=KEYS)
    sides: dict[str, Any] = {
        s: {**found.medians[s], "losses": t[0]["losses"]} for s, t in found.turns.items()
    }
    for side in sides:
        print(f"{name:9} losses {side} " + " ".join(f"{x:.4f}" for x in sides[side]["losses"]))
    if not peer:
        return sides
    ours, other = sides["ours"], sides["peer"]
    ratio = {
        "tokens_per_second": found.ratio("tokens_per_second", "ours", "peer"),
        "step": found.ratio("seconds_per_step", "peer", "ours"),
        "cpu_step": found.ratio("cpu_seconds_per_step", "peer", "ours"),
        "peak_memory": found.ratio("peak_memory_mb", "ours", "peer"),
        "memory_increase": found.ratio("increase_mb", "ours", "peer"),
    }
    gaps = [abs(a - b) / abs(b) for a, b in zip(ours["losses"], other["losses"], strict=True)]
    print(
        f"{name:9} ours/peer: {ratio['tokens_per_second']:.2f} x tokens/s,"
        f" {ratio['cpu_step']:.2f} x by time of cores, {ratio['peak_memory']:.2f} x peak memory;"
        f" losses differ by at most {max(gaps):.2%}",
        flush=True,
    )
    return sides | {"ratio": ratio, "loss_gap": max(gaps)}
