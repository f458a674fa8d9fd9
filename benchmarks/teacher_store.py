"""A teacher store against the teacher in memory: step time, peak memory, planned and measured disk.

    KDBENCH_DATA=... python benchmarks/teacher_store.py --teacher FOLDER [--rows 200] [--json]

Forward KD of the model given (SmolLM2-135M) into ``prune:8`` of it, the first rows of Dolly, two passes over
them, each training a `kdbench train` of its own in a cache of its own. With the teacher in memory it is asked
anew at every step (``teacher_memory_gb`` 0) or remembered from the first pass on (the default). Step times
are medians of each pass; memory is the peak of the process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "kdbench"]
BATCH = 8
WAYS = {
    "teacher asked at every step": ["train.teacher_memory_gb=0"],
    "teacher remembered": [],
    "store": ["train.teacher_store=hidden"],
}


def settings(rows: int, steps: int) -> list[str]:
    """What all trainings share: no development set to speak of, no init."""
    given = {
        "data.limit": rows,
        "data.dev_limit": 8,
        "data.text": "null",
        "method.responses": "data",
        "train.init": "pretrained",
        "train.batch_size": BATCH,
        "train.response_tokens": "null",
        "train.steps": steps,
        "train.select": "last",
        "train.eval_every": 0,
        "train.save_every": 10_000,
    }
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


def run(verb: str, arguments: list[str], cache: Path) -> str:
    """A kdbench command; its standard output."""
    environment = {**os.environ, "KDBENCH_CACHE": str(cache)}
    done = subprocess.run(
        [*COMMAND, verb, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def trained(folder: Path, steps: int) -> dict[str, float]:
    """Seconds of a step in the first and the second pass, and peak memory."""
    lines = (folder / "train" / "metrics.jsonl").read_text().splitlines()
    walls = [row["wall_s"] for row in map(json.loads, lines)]
    times = [after - before for before, after in pairwise(walls)]
    half = steps // 2
    info = json.loads((folder / "train" / "train.done").read_text())["info"]
    return {
        "first_pass_s": statistics.median(times[1:half]),
        "second_pass_s": statistics.median(times[half:]),
        "all_s": walls[-1],
        "peak_mb": info["peak_mb"],
        "planned_mb": info["planned_mb"],
    }


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    steps = 2 * (asked.rows // BATCH)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        pair = ["--suite", "smollm2", "--method", "fkd", "--teacher", asked.teacher]
        common = [*pair, "--student", "prune:8", *settings(asked.rows, steps)]
        captured = run(
            "capture", [*common, "--json", "--runs-dir", str(place / "c")], place / "cache"
        )
        found["capture"] = json.loads(captured)
        for way, more in WAYS.items():
            runs = place / way.replace(" ", "-")
            extra = [word for text in more for word in ("--set", text)]
            run("train", [*common, *extra, "--runs-dir", str(runs)], place / "cache")
            (folder,) = runs.glob("fkd-*")
            found[way] = trained(folder, steps)
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    store = found["capture"]
    print(f"{store['rows']} rows, {store['positions']:,} positions")
    print(f"disk: planned {store['planned_bytes']:,} bytes, written {store['bytes']:,}")
    print(
        "| | first pass, s a step | second pass | peak MiB | planned |\n|---|---:|---:|---:|---:|"
    )
    for way in WAYS:
        row = found[way]
        print(
            f"| {way} | {row['first_pass_s']:.2f} | {row['second_pass_s']:.2f} | "
            f"{row['peak_mb']:,.0f} | {row['planned_mb']:,.0f} |"
        )


if __name__ == "__main__":
    main()
