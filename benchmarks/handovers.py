"""What verified hand-overs cost: their share of a run, and a board of many runs read and verified.

    python benchmarks/handovers.py run [--suite mini] [--method fkd] [--set …]
    python benchmarks/handovers.py board RUN [--copies 400]

``run`` makes one run in a temporary folder and adds up the processor time spent in markers, digests and
hashes of content. ``board`` copies a finished run, gives each copy an id and a seed of its own, damages
one and cuts another short, and times the leaderboard in seconds and in processor time.
"""

import argparse
import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdbench.harness import cli
from kdbench.harness.files import stages, store
from kdbench.harness.files.run_folder import RunFolder
from kdbench.reports.board import leaderboard
from kdbench.reports.runs import finished_runs


class Clock:
    """Processor time inside some functions, calls inside calls counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def watch(self, owner: Any, *names: str) -> None:
        """Counts these functions of a class or module from now on."""
        for name in names:
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            self._depth += 1
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.thread_time() - began

        return watched


def time_run(suite: str, method: str, settings: list[str]) -> None:
    """One run from nothing but the cache."""
    clock = Clock()
    clock.watch(stages.Stage, "done", "marked", "marker", "mark")
    clock.watch(store.Document, "read", "check", "sound")
    clock.watch(store, "with_digest", "checked", "checked_row", "row_with_digest")
    with tempfile.TemporaryDirectory() as folder:
        began, processor = time.perf_counter(), time.process_time()
        sets = [part for setting in settings for part in ("--set", setting)]
        try:
            cli.main(
                [
                    "run",
                    "--suite",
                    suite,
                    "--method",
                    method,
                    "--runs-dir",
                    folder,
                    "--quiet",
                    *sets,
                ]
            )
        except SystemExit as end:
            assert not end.code, end.code
        wall, processor = time.perf_counter() - began, time.process_time() - processor
    share = 100 * clock.seconds / processor
    print(
        f"{suite} {method}: {wall:.1f} s, processor {processor:.1f} s, of which verified hand-overs "
        f"{clock.seconds:.3f} s, {share:.2f} %"
    )


def time_board(run: Path, copies: int) -> None:
    """Copies of one run, two of them damaged."""
    with tempfile.TemporaryDirectory() as folder:
        made = [copy_of(RunFolder(run), Path(folder), number) for number in range(copies)]
        flip(next(made[0].path.glob("eval/*/scores.jsonl")))
        made[1].summary.path.write_bytes(made[1].summary.path.read_bytes()[:100])
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        for what, act in {
            "read and verified": lambda: finished_runs([folder]),
            "whole board": lambda: leaderboard([folder], "md"),
        }.items():
            store._hashes.clear()
            began, processor = time.perf_counter(), time.process_time()
            result = act()
            wall, processor = time.perf_counter() - began, time.process_time() - processor
            print(f"{copies} runs, {size / 2**20:.0f} MiB, {what}: {wall:.1f} s, {processor:.1f} s")
            if isinstance(result, tuple):
                print("\n".join(result[1]))


def copy_of(run: RunFolder, folder: Path, number: int) -> RunFolder:
    """The run under an id and a training seed of its own."""
    made = RunFolder(folder / f"{run.name[:-12]}{number:012x}")
    shutil.copytree(run.path, made.path)
    summary = run.summary.read()
    card = summary.run.model_copy(
        update={
            "id": made.id,
            "training_seed": number % 5,
            "settings": f"settings {number // 5}",
            "changes": [f"train.lr={number // 5}"],
        }
    )
    made.summary.write(summary.model_copy(update={"run": card}))
    return made


def flip(path: Path) -> None:
    """Changes a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    run = kinds.add_parser("run")
    run.add_argument("--suite", default="mini")
    run.add_argument("--method", default="fkd")
    run.add_argument("--set", action="append", default=[], dest="settings")
    board = kinds.add_parser("board")
    board.add_argument("run", type=Path)
    board.add_argument("--copies", type=int, default=400)
    asked = parser.parse_args()
    if asked.what == "run":
        time_run(asked.suite, asked.method, asked.settings)
    else:
        time_board(asked.run, asked.copies)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
