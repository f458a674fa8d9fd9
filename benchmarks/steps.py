"""CPU time of optimiser steps of two checkouts, in turns, and whether they end with the same bytes.

    python benchmarks/steps.py --before OTHER [--methods dpkd,opd,distillm] [--steps 40] [--turns 3] [--json]
    python benchmarks/steps.py --before OTHER --starts [--turns 3] [--json]

Each side is the first ``--steps`` steps of ``kdbench train`` on a suite, evaluations on the development
set included, in a process and a folder of its own, with one thread; teacher, init and teacher answers are
made once, before, by ``--before``. OTHER is another checkout of kdbench (``git worktree add OTHER COMMIT``)
whose dependencies are those of this environment. Times are of the training alone, not of the start. Ends
with 1 if a student or a logged loss differs in a byte.

With ``--starts`` CPU seconds of what every command does before it trains: imports, the rows of the generated
world with a cache that has them if the checkout keeps them, and 12,000 teacher answers taken in by 256.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from turns import timed

FOLDERS = ("harness", "trainers", "tasks", "reports")
TIMED = """
import sys, time
from kdbench.trainers.loop import Loop
run = Loop.run
def timed(loop):
    began = time.process_time()
    state = run(loop)
    print("seconds", time.process_time() - began, state.step)
    return state
Loop.run = timed
from kdbench.harness.cli import main
main(sys.argv[1:])
"""

STARTS = {
    "imports": "import kdbench.harness.runner.commands",
    "world's rows": """
from kdbench.tasks import mini
splits = ("train", "dev", "dolly", "selfinst", "sni", "unni", "vicuna")
print("found", hash(repr([mini.rows(split, size="mini-2") for split in splits])))
""",
    "12,000 answers": """
import tempfile
from pathlib import Path
from kdbench.trainers.sources import TeacherAnswers
from kdbench.trainers.types import Answer, Sequence
began = time.process_time()
asked = [Sequence((1, i), (), i) for i in range(12_000)]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "answers.jsonl"
    sample = lambda prompts: [Answer(tuple(range(13)), True) for _ in prompts]
    answers = TeacherAnswers(asked, path, sample, writes=True)
    for first in range(0, len(asked), 256):
        answers.pick(range(first, min(first + 256, len(asked))))
""",
}
"""What is timed of a start, by name; what it finds is printed."""
CLOCK = (
    "import time; began = time.process_time()\n{}\nprint('seconds', time.process_time() - began)"
)


def package(repo: Path, folder: Path) -> Path:
    """A folder to import a checkout's kdbench from."""
    target = folder / "kdbench"
    target.mkdir(parents=True)
    for name in FOLDERS:
        (target / name).symlink_to(repo / name)
    for file in (repo / "harness" / "package").glob("*.py"):
        (target / file.name).symlink_to(file)
    return folder


def trained(code: Path, arguments: list[str], runs: Path, cache: Path) -> dict[str, Any]:
    """One training by one checkout: CPU milliseconds a step, and a digest of what came out."""
    command = [sys.executable, "-c", TIMED, "train", *arguments, "--quiet", "--runs-dir", str(runs)]
    own = {"KDBENCH_CACHE": str(cache), "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=os.environ | own, stdout=subprocess.PIPE, text=True, check=True
    )
    line = [line for line in done.stdout.splitlines() if line.startswith("seconds")][-1]
    _, seconds, steps = line.split()
    (folder,) = runs.glob("*/train")
    digest = hashlib.sha256((folder / "student" / "model.safetensors").read_bytes())
    for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        row.pop("wall_s", None)
        digest.update(json.dumps(row, sort_keys=True).encode())
    return {"ms": 1000 * float(seconds) / int(steps), "digest": digest.hexdigest()[:16]}


def started(code: Path, part: str, cache: Path) -> dict[str, Any]:
    """CPU seconds of a part of the start, and what it found."""
    own = {"KDBENCH_CACHE": str(cache), "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CLOCK.format(STARTS[part])]
    variables = os.environ | own | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, Any] = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    return {**said, "seconds": float(said["seconds"])}


def starts(code: dict[str, Path], cache: Path, turns: int) -> tuple[dict[str, float], bool]:
    """Times all parts of the start in turns; the ratios, and whether both sides found the same."""
    ratios, equal = {}, True
    for part in STARTS:
        for side in code:
            started(code[side], part, cache / side)  # fills caches, of bytecode too

        def take(side: str, turn: int, part: str = part) -> dict[str, Any]:
            return started(code[side], part, cache / side)

        found = timed(code, take, turns=turns, keys=["seconds"])
        ratios[part] = found.ratio("seconds", "before", "after")
        equal &= alike(found.turns, "found")
        middle = {side: each["seconds"] for side, each in found.medians.items()}
        times = f"{middle['before']:6.2f} -> {middle['after']:5.2f} s of a core"
        print(f"{part:16s} {times}, {ratios[part]:.1f} times as fast (medians)", flush=True)
    return ratios, equal


def alike(turns: dict[str, list[Mapping[str, Any]]], key: str) -> bool:
    """Whether all turns of both sides say the same."""
    return len({row.get(key) for rows in turns.values() for row in rows}) == 1


def main() -> None:
    """Runs the turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--suite", default="mini")
    parser.add_argument("--methods", default="dpkd,opd,distillm")
    parser.add_argument("--set", action="append", default=[], help="as of kdbench train")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--starts", action="store_true", help="time the start instead of steps")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    ratios: dict[str, float] = {}
    equal = True
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        sides = {"before": options.before.resolve(), "after": here}
        code = {side: package(repo, place / side) for side, repo in sides.items()}
        cache = place / "cache"
        if options.starts:
            ratios, equal = starts(code, cache, options.turns)
        given = ["--suite", options.suite, "--set", f"train.steps={options.steps}"]
        given += [word for text in options.set for word in ("--set", text)]
        for method in () if options.starts else options.methods.split(","):
            trained(code["before"], [*given, "--method", method], place / f"{method}-first", cache)

            def take(side: str, turn: int, method: str = method) -> dict[str, Any]:
                runs = place / f"{method}-{side}-{turn}"
                one = trained(code[side], [*given, "--method", method], runs, cache)
                said = f"{one['ms']:7.1f} ms a step, {one['digest']}"
                print(f"{method:12s} turn {turn + 1} {side:6s} {said}", flush=True)
                return one

            found = timed(sides, take, turns=options.turns, keys=["ms"])
            ratios[method] = found.ratio("ms", "before", "after")
            same = alike(found.turns, "digest")
            equal &= same
            words = "the same bytes" if same else "OTHER BYTES"
            print(f"{method:12s} {ratios[method]:.2f} times as fast (medians), {words}", flush=True)
    if options.json:
        print(json.dumps(ratios))
    sys.exit(not equal)


if __name__ == "__main__":
    main()
