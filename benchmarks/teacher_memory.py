"""Training time with and without the teacher's memory, in turns.

    python benchmarks/teacher_memory.py [--suite mini] [--methods fkd,minillm-code] [--turns 3] [--json]

The same run with ``train.teacher_memory_gb=2`` and ``=0``, alternating, each in a process and a folder
of its own; teacher and init are made once, before. Seconds are those of training alone, evaluations on
the development set included. Students agree to rounding, so the last losses are printed too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdbench.harness.files.records import TrainRow
from kdbench.harness.files.store import read_records

sys.path.insert(0, str(Path(__file__).parent))
from turns import timed

KDBENCH = [sys.executable, "-c", "from kdbench.harness.cli import main; main()"]
SIDES = {"kept": "2", "computed": "0"}


def trained(arguments: list[str], runs: Path, cache: Path, gigabytes: str) -> TrainRow:
    """The last step of one training."""
    subprocess.run(
        [
            *(*KDBENCH, "train", *arguments, "--quiet", "--runs-dir", str(runs)),
            *("--set", f"train.teacher_memory_gb={gigabytes}"),
        ],
        env=os.environ | {"KDBENCH_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (metrics,) = runs.glob("*/train/metrics.jsonl")
    return read_records(metrics, TrainRow)[-1]


def main() -> None:
    """Runs the turns and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", default="mini")
    parser.add_argument("--methods", default="fkd,minillm-code")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        trained(["--suite", options.suite, "--method", "sft"], Path(folder) / "first", cache, "0")
        for method in options.methods.split(","):

            def take(side: str, turn: int, method: str = method) -> dict[str, Any]:
                arguments = ["--suite", options.suite, "--method", method]
                runs = Path(folder) / f"{method}-{side}-{turn}"
                row = trained(arguments, runs, cache, SIDES[side])
                said = f"{row.wall_s:6.1f} s, step {row.step}, loss {row.loss:.4f}"
                print(f"{method:14s} turn {turn + 1} {side:9s} {said}", flush=True)
                return {"wall_s": row.wall_s}

            found = timed(SIDES, take, turns=options.turns, keys=["wall_s"])
            ratios[method] = found.ratio("wall_s", "computed", "kept")
            print(f"{method:14s} kept is {ratios[method]:.2f} times as fast (medians)", flush=True)
    if options.json:
        print(json.dumps(ratios))


if __name__ == "__main__":
    main()
