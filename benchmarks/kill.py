"""Kills runs at random moments and compares what they end with, byte by byte.

    python benchmarks/kill.py --suite mini --kills 10 [--methods sft,dpkd] [--json]

For each method: one uninterrupted run, whose training and generation are timed; then the same command
with SIGKILL until ``--kills`` kills have been made. Of five kills four are aimed at training (answers
sampled for training included) and one at generation (evaluation of the student and of its references),
each at a moment drawn over all that is left of it; a run that is through is compared and followed by a
fresh one. Counted is where a kill hit, not where it was aimed. The student's weights and all samples
and scores must be identical. Teacher and init are made once, before, and shared by both (bytes depend
on the number of threads, so on who made them); teacher answers are sampled anew by each.

Leave the code alone meanwhile: a run refuses to continue on other code than it began with, so this
stops with a sentence as soon as it sees a change.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kdbench.harness.provenance import source_sha256

METHODS = "sft,fkd,seqkd,minillm,minillm-code,dpkd,dpkd-token"
KDBENCH = [sys.executable, "-c", "from kdbench.harness.cli import main; main()"]
AIMS = ("training",) * 4 + ("generation",)


@dataclass
class Row:
    """What is printed of a method."""

    method: str
    seconds: float
    kills: int = 0
    runs: int = 0
    in_training: int = 0
    in_generation: int = 0
    elsewhere: int = 0
    different: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The method in one line."""
        places = f"in training {self.in_training}, in generation {self.in_generation}, "
        places += f"elsewhere {self.elsewhere}"
        verdict = f"DIFFERENT: {', '.join(self.different)}" if self.different else "identical"
        return (
            f"{self.method:14s} kills {self.kills:3d} ({places}), runs {self.runs}, "
            f"uninterrupted {self.seconds:.0f} s, {verdict}"
        )


@dataclass(frozen=True)
class Job:
    """A command with its folders; ``code`` is the hash of the code it has to run on."""

    command: tuple[str, ...]
    runs_dir: Path
    cache: Path
    code: str

    def start(self) -> subprocess.Popen[bytes]:
        """A process in a group of its own; what it says on standard error is kept in a file."""
        self.check_code()
        with self.said.open("w") as said:
            return subprocess.Popen(
                [*self.command, "--runs-dir", str(self.runs_dir)],
                env={**os.environ, "KDBENCH_CACHE": str(self.cache)},
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    @property
    def said(self) -> Path:
        """What the last process wrote on standard error."""
        return self.runs_dir.with_name(f"{self.runs_dir.name}.stderr")

    def check_code(self) -> None:
        """Stops all if the code is no longer what this began with."""
        now = code_hash()
        if now != self.code:
            raise SystemExit(
                f"kdbench's code changed while this ran ({self.code[:8]} -> {now[:8]}), and runs "
                "refuse to continue on other code; start again and leave the checkout alone, or run "
                "it from a copy of its own"
            )

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for the end; stops all with what the process said if it failed."""
        if process.wait():
            self.check_code()
            said = self.said.read_text()[-4000:]
            raise SystemExit(
                f"{shlex.join(self.command)} ended with exit {process.returncode}:\n{said}"
            )

    def written(self) -> int:
        """Bytes of logs and samples: grows when work is done."""
        total = 0
        for folder in (self.runs_dir, self.cache):
            for path in folder.rglob("*.jsonl"):
                try:
                    total += path.stat().st_size
                except FileNotFoundError:
                    continue
        return total

    def run_folder(self) -> Path | None:
        """The method's run, once it is there."""
        found = [*self.runs_dir.glob("*")]
        return next((p for p in found if not p.name.startswith(("eval-", "."))), None)

    def trained(self) -> bool:
        """Whether the run is past its training."""
        run = self.run_folder()
        return run is not None and (run / "train" / "train.done").exists()


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
    code = code_hash()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for method in options.methods.split(","):
            found.append(one_method(options, method, Path(scratch), code))
            print(found[-1].line(), flush=True)
    if options.json:
        print(json.dumps({"kill": [asdict(row) for row in found]}))
    sys.exit(any(row.different for row in found))


def code_hash() -> str:
    """Hash of the code as it is now (a process of kdbench remembers that of its start)."""
    return source_sha256.__wrapped__()


def one_method(options: argparse.Namespace, method: str, scratch: Path, code: str) -> Row:
    """One uninterrupted run and as many killed ones as the kills need."""
    dice = random.Random(f"{options.seed} {method}")
    home = Path(os.environ.get("KDBENCH_CACHE") or scratch / "cache")
    command = (*KDBENCH, "run", "--suite", options.suite, "--method", method)
    command += ("--tasks", options.tasks, "--set", "train.save_every=10", "--quiet")
    for assignment in options.set:
        command += ("--set", assignment)
    before = Job((*command, "--set", "train.steps=1"), scratch / f"{method}-before", home, code)
    before.end(before.start())

    def job(name: str) -> Job:
        return Job(command, scratch / f"{method}-{name}", shared(home, scratch, method, name), code)

    whole = job("whole")
    lasts = timed(whole)
    expected = results(whole)
    row = Row(method, sum(lasts.values()))
    while row.kills < options.kills:
        killed = job(f"killed-{row.runs}")
        left = dict(lasts)
        while row.kills < options.kills:
            aim = AIMS[row.kills % len(AIMS)]
            if aim == "training" and killed.trained():
                break
            delay = dice.uniform(0.0, left[aim])
            place = killed_at(killed, aim, delay)
            if place is None:
                break
            # what was done since the last checkpoint is done again: never nothing left
            left[aim] = max(left[aim] - delay, lasts[aim] / 20)
            row.kills += 1
            setattr(row, place, getattr(row, place) + 1)
        killed.end(killed.start())
        row.runs += 1
        got = results(killed)
        row.different += [n for n in expected | got if expected.get(n) != got.get(n)]
    return row


def shared(home: Path, scratch: Path, method: str, name: str) -> Path:
    """A new cache with the teachers and inits of another."""
    cache = scratch / f"{method}-cache-{name}"
    for kind in ("teachers", "inits"):
        shutil.copytree(home / kind, cache / kind)
    return cache


def timed(job: Job) -> dict[str, float]:
    """Runs a job to its end; seconds of training and of generation, start-up apart."""
    process = job.start()
    wait_for_work(job, process, "training")
    began = time.monotonic()
    while not job.trained() and process.poll() is None:
        time.sleep(0.02)
    trained = time.monotonic()
    job.end(process)
    return {"training": trained - began, "generation": time.monotonic() - trained}


def wait_for_work(job: Job, process: subprocess.Popen[bytes], aim: str) -> None:
    """Returns when the process has written something new, after training if ``aim`` says so."""
    while aim == "generation" and not job.trained() and process.poll() is None:
        time.sleep(0.02)
    before = job.written()
    while job.written() == before and process.poll() is None:
        time.sleep(0.02)


def killed_at(job: Job, aim: str, delay: float) -> str | None:
    """Kills the job ``delay`` seconds into new work of the stage aimed at.

    Returns the field of `Row` that counts where it was killed, or None if it ended by itself.
    """
    process = job.start()
    wait_for_work(job, process, aim)
    time.sleep(delay)
    if process.poll() is not None:
        job.end(process)
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run = job.run_folder()
    if job.trained():
        return "in_generation"
    began = run is not None and (run / "train" / "metrics.jsonl").exists()
    return "in_training" if began else "elsewhere"


def results(job: Job) -> dict[str, bytes]:
    """What must not depend on interruptions."""
    run = job.run_folder()
    assert run is not None, "the command ended without a run folder"
    files = [*run.glob("train/student/*.safetensors"), *run.glob("eval/*/s*.jsonl")]
    references = job.runs_dir.glob("eval-*/eval/*/s*.jsonl")
    found = {str(path.relative_to(job.runs_dir)): path for path in [*files, *references]}
    return {name: found[name].read_bytes() for name in sorted(found)}


if __name__ == "__main__":
    main()
