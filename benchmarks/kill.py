"""Kills runs at random moments and compares what they end with, byte by byte.

    python benchmarks/kill.py --suite mini --kills 10 [--methods sft,dpkd] [--json]

For each method: one uninterrupted run, then the same command with SIGKILL at random moments of its
work until ``--kills`` kills have been made (a run that ends before is followed by a fresh one). The
student's weights and all samples and scores must be identical. Teacher and init are made once, before,
and shared by both (bytes depend on the number of threads, so on who made them); teacher answers are
sampled anew by each.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = "sft,fkd,seqkd,minillm,minillm-code,dpkd,dpkd-token"
KDBENCH = [sys.executable, "-c", "from kdbench.harness.cli import main; main()"]


def main() -> None:
    """Parses arguments, runs all methods, prints a table and exits 1 if any byte differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="mini")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--tasks", default="dolly,selfinst")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="passed on to kdbench run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for method in options.methods.split(","):
            found.append(one_method(options, method, Path(scratch)))
            row = found[-1]
            print(
                f"{row['method']:14s} kills {row['kills']:3d} "
                f"(in training {row['in_training']}, in generation {row['in_generation']}, "
                f"elsewhere {row['elsewhere']}), runs {row['runs']}, "
                f"uninterrupted {row['seconds']:.0f} s, "
                f"{'identical' if row['identical'] else 'DIFFERENT: ' + row['different']}",
                flush=True,
            )
    if options.json:
        print(json.dumps({"kill": found}))
    sys.exit(any(not row["identical"] for row in found))


def one_method(options: argparse.Namespace, method: str, scratch: Path) -> dict[str, object]:
    """One uninterrupted run and as many killed ones as the kills need."""
    dice = random.Random(f"{options.seed} {method}")
    home = Path(os.environ.get("KDBENCH_CACHE") or scratch / "cache")
    command = [*KDBENCH, "run", "--suite", options.suite, "--method", method]
    command += ["--tasks", options.tasks, "--set", "train.save_every=10", "--quiet"]
    for assignment in options.set:
        command += ["--set", assignment]
    finish([*command, "--set", "train.steps=1"], scratch / f"{method}-before", home)
    began = time.monotonic()
    whole = finish(command, scratch / f"{method}-whole", shared(home, scratch / f"{method}-cache"))
    seconds = time.monotonic() - began
    expected = results(whole)
    row = {"method": method, "kills": 0, "runs": 0, "seconds": seconds, "identical": True}
    row |= {"in_training": 0, "in_generation": 0, "elsewhere": 0, "different": ""}
    while row["kills"] < options.kills:
        runs_dir = scratch / f"{method}-killed-{row['runs']}"
        cache = shared(home, scratch / f"{method}-cache-{row['runs']}")
        run = runs_dir / whole.name
        while row["kills"] < options.kills:
            place = killed_at(command, runs_dir, cache, run, dice.uniform(0.0, seconds / 8))
            if place is None:
                break
            row["kills"] += 1
            row[place] += 1
        finish(command, runs_dir, cache)
        row["runs"] += 1
        got = results(run)
        different = [n for n in expected | got if expected.get(n) != got.get(n)]
        if different:
            row |= {"identical": False, "different": ", ".join(different)}
    return row


def shared(home: Path, cache: Path) -> Path:
    """A new cache with the teachers and inits of another."""
    for kind in ("teachers", "inits"):
        shutil.copytree(home / kind, cache / kind)
    return cache


def finish(command: list[str], runs_dir: Path, cache: Path) -> Path:
    """Runs a command to its end; returns the method's run folder."""
    subprocess.run(
        [*command, "--runs-dir", str(runs_dir)],
        env={**os.environ, "KDBENCH_CACHE": str(cache)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (run,) = [p for p in runs_dir.iterdir() if not p.name.startswith("eval-")]
    return run


def killed_at(
    command: list[str], runs_dir: Path, cache: Path, run: Path, delay: float
) -> str | None:
    """Starts the command, waits until it does new work and ``delay`` seconds more, and kills it.

    Returns where it was killed, or None if it ended by itself.
    """
    before = written(runs_dir, cache)
    process = subprocess.Popen(
        [*command, "--runs-dir", str(runs_dir)],
        env={**os.environ, "KDBENCH_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while written(runs_dir, cache) == before and process.poll() is None:
        time.sleep(0.02)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (run / "train" / "train.done").exists():
            return "in_generation"
        return "in_training" if (run / "train" / "metrics.jsonl").exists() else "elsewhere"
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return None


def written(*folders: Path) -> int:
    """Bytes of logs and samples below the folders: grows when work is done."""
    total = 0
    for folder in folders:
        for path in folder.rglob("*.jsonl"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
    return total


def results(run: Path) -> dict[str, bytes]:
    """What must not depend on interruptions."""
    files = [*run.glob("train/student/*.safetensors"), *run.glob("eval/*/s*.jsonl")]
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(files)}


if __name__ == "__main__":
    main()
