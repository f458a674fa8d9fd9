"""A teacher store against the teacher in memory: processor time of a step, peak memory, size on disk.

    KDBENCH_DATA=... python benchmarks/teacher_store.py --teacher FOLDER [--rows 200] [--json]

Forward KD of the model given (SmolLM2-135M) into ``prune:8`` of it on the gold answers of Dolly's first rows,
one pass over them, each training a `kdbench train` of its own. A step's time is that of the processor, of
all threads: what a training of all steps used beyond one of a single step, so that loading is not in it and a
busy machine matters little. Memory is the peak of the process. `kdbench capture` fills the store before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "kdbench"]
BATCH = 8
WAYS = {"teacher in memory": [], "store": ["teacher.store=hidden"]}


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


def run(verb: str, arguments: list[str], cache: Path) -> tuple[str, float]:
    """A kdbench command: its standard output, and the processor's seconds that it took."""
    environment = {**os.environ, "KDBENCH_CACHE": str(cache)}
    command = [*COMMAND, verb, *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(os.waitstatus_to_exitcode(status))
    return said, used.ru_utime + used.ru_stime


def trained(way: str, common: list[str], rows: int, place: Path) -> dict[str, float]:
    """Processor time of a step, and the highest memory, of one way."""
    steps, spent, infos = rows // BATCH, [], []
    extra = [word for text in WAYS[way] for word in ("--set", text)]
    for count in (1, steps):
        runs = place / f"{way.replace(' ', '-')}-{count}"
        asked = [*common, *settings(rows, count), *extra, "--runs-dir", str(runs)]
        spent.append(run("train", asked, place / "cache")[1])
        (folder,) = runs.glob("fkd-*")
        infos.append(json.loads((folder / "train" / "train.done").read_text())["info"])
    step = (spent[1] - spent[0]) / (steps - 1)
    return {"step_s": step, **{key: infos[1][key] for key in ("peak_mb", "planned_mb")}}


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        pair = ["--suite", "smollm2", "--method", "fkd", "--teacher", asked.teacher]
        common = [*pair, "--student", "prune:8"]
        wanted = [*common, *settings(asked.rows, 1), "--json", "--runs-dir", str(place / "c")]
        said, spent = run("capture", wanted, place / "cache")
        found["capture"] = {**json.loads(said), "processor_s": spent}
        with ThreadPoolExecutor() as pool:
            ways = {w: pool.submit(trained, w, common, asked.rows, place) for w in WAYS}
            found |= {way: made.result() for way, made in ways.items()}
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    store = found["capture"]
    print(f"{store['rows']} rows, {store['positions']:,} positions")
    print(f"disk: planned {store['planned_bytes']:,} bytes, written {store['bytes']:,}")
    print("| | step, s of a processor | peak MiB | planned |\n|---|---:|---:|---:|")
    for way in WAYS:
        row = found[way]
        print(f"| {way} | {row['step_s']:.2f} | {row['peak_mb']:,.0f} | {row['planned_mb']:,.0f} |")


if __name__ == "__main__":
    main()
