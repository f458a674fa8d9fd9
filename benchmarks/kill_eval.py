"""Kills `kdbench eval` at random moments: nothing is lost, and how much is done twice.

    python benchmarks/kill_eval.py [--suite mini] [--model teacher] [--kills 10] [--json]

One uninterrupted evaluation, then the same command with SIGKILL at random moments after it has begun
to answer (answers, contexts of exposure bias, scoring, probes) until ``--kills`` kills are made, and once
more to its end; should it end before, a fresh one follows. Every process writes down each answer its
model finishes. Samples, scores and probes must be identical, whatever was stored at a kill must be in
the end's files, and a kill may repeat the answers of one chunk at most, the one in flight (exposure
bias keeps all samples of a prompt in one chunk).
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

# processes are forked from one that has imported everything: kills hit work, not imports
_context = multiprocessing.get_context("forkserver")
_PRELOAD = ["kdbench.harness.verbs.evaluate", "kdbench.harness.runner.commands"]


@dataclass
class Row:
    """What is printed; counts are of answers."""

    kills: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    answers: int = 0
    generated: int = 0
    repeated: int = 0
    allowed: int = 0
    lost: int = 0
    different: str = ""

    @property
    def holds(self) -> bool:
        """Whether what is claimed is so."""
        return not self.lost and not self.different and self.repeated <= self.allowed

    def line(self) -> str:
        """All of it as a sentence."""
        return (
            f"{self.kills} kills over {self.evaluations} evaluation(s) of {self.answers} answers "
            f"({self.seconds:.0f} s uninterrupted): {self.generated} answers generated, "
            f"{self.repeated} of them twice (at most {self.allowed} could be in flight), "
            f"{self.lost} stored lines lost, "
            + (f"DIFFERENT: {self.different}" if self.different else "all files identical")
        )


def main() -> None:
    """Parses arguments, kills, prints a line and exits 1 if anything is not as claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="mini")
    parser.add_argument("--model", default="teacher")
    parser.add_argument("--teacher", default="teacher")
    parser.add_argument("--tasks", default="dolly,selfinst")
    parser.add_argument("--probes", default="exposure,calibration")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=8, help="prompts a chunk")
    parser.add_argument("--samples", type=int, default=4, help="exposure bias: answers a prompt")
    parser.add_argument("--set", action="append", default=[], help="passed on to kdbench eval")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    _context.set_forkserver_preload(_PRELOAD)
    with tempfile.TemporaryDirectory() as scratch:
        row = killed_often(options, Path(scratch))
    print(json.dumps(asdict(row)) if options.json else row.line())
    sys.exit(not row.holds)


def killed_often(options: argparse.Namespace, scratch: Path) -> Row:
    """The uninterrupted evaluation, the killed ones, and what came of them."""
    command = ["eval", "--suite", options.suite, "--model", options.model, "--quiet"]
    command += ["--teacher", options.teacher, "--tasks", options.tasks]
    command += ["--probes", options.probes, "--set", f"generate.chunk={options.chunk}"]
    command += ["--set", f"tasks.probe_samples={options.samples}"]
    for assignment in options.set:
        command += ["--set", assignment]
    os.environ.setdefault("KDBENCH_CACHE", str(scratch / "cache"))
    dice, row = random.Random(options.seed), Row()
    if options.model == "teacher" or options.teacher == "teacher":
        # made once, before: training the teacher is not what is measured
        once = [*command, "--tasks", options.tasks.split(",")[0], "--limit", "1"]
        finish([*once, "--runs-dir", str(scratch / "before")], scratch / "before.count")
    whole, count = scratch / "whole", scratch / "whole.count"
    process = start([*command, "--runs-dir", str(whole)], count)
    wait_for_work(process, count)
    began = time.monotonic()
    end(process)
    row.seconds, row.answers = time.monotonic() - began, answers(count)
    while row.kills < options.kills:
        runs_dir = scratch / f"killed-{row.evaluations}"
        count, stored = runs_dir.with_suffix(".count"), []
        arguments = [*command, "--runs-dir", str(runs_dir)]
        while row.kills < options.kills:
            process = start(arguments, count)
            wait_for_work(process, count)
            process.join(dice.uniform(0, 2 * row.seconds / options.kills))
            if not process.is_alive():
                end(process)
                break
            process.kill()
            process.join()
            row.kills += 1
            stored.append(whole_chunks(runs_dir, options.chunk))
        finish(arguments, count)
        row.evaluations += 1
        row.generated += answers(count)
        compare(row, whole, runs_dir, stored)
    row.repeated = row.generated - row.evaluations * row.answers
    # exposure bias stores all samples of a prompt at once
    row.allowed = row.kills * max(options.chunk, options.samples)
    return row


def start(arguments: list[str], count: Path) -> BaseProcess:
    """A kdbench process that adds a byte to ``count`` for each answer it finishes."""
    process = _context.Process(target=counted, args=(arguments, dict(os.environ), str(count)))
    process.start()
    return process


def counted(arguments: list[str], environment: dict[str, str], count: str) -> None:
    """Runs a command line, counting answers in a file, which survives a SIGKILL."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from kdbench.harness import cli
    from kdbench.trainers.sampler import sampler as rollout

    tally = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    collect = rollout._Sampler._collect

    def counting(sampler: rollout._Sampler, *drawn: object) -> list[int]:
        ended = collect(sampler, *drawn)  # type: ignore[arg-type]
        os.write(tally, b"." * len(ended))
        return ended

    rollout._Sampler._collect = counting  # type: ignore[assignment, method-assign]
    cli.main(arguments)


def finish(arguments: list[str], count: Path) -> None:
    """Runs a command to its end."""
    end(start(arguments, count))


def end(process: BaseProcess) -> None:
    """Waits for the end; a failure stops all (it has said why on standard error)."""
    process.join()
    if process.exitcode:
        raise SystemExit(f"kdbench eval ended with exit {process.exitcode}")


def answers(count: Path) -> int:
    """Answers finished so far by all processes that write to this file."""
    return count.stat().st_size if count.exists() else 0


def wait_for_work(process: BaseProcess, count: Path) -> None:
    """Returns when a new answer is finished, or the process is through."""
    before = answers(count)
    while process.is_alive() and answers(count) == before:
        time.sleep(0.005)


def whole_chunks(runs_dir: Path, chunk: int) -> dict[str, list[bytes]]:
    """What a kill left of answers in whole chunks, by file."""
    found = {}
    for path in runs_dir.glob("*/eval/*/samples.*.jsonl"):
        lines = path.read_bytes().split(b"\n")[:-1]
        found[str(path.relative_to(runs_dir))] = lines[: len(lines) // chunk * chunk]
    return found


def compare(row: Row, whole: Path, runs_dir: Path, stored: list[dict[str, list[bytes]]]) -> None:
    """Counts stored lines that are gone, and names the first file that differs."""
    for moment in stored:
        for name, lines in moment.items():
            kept = (runs_dir / name).read_bytes().split(b"\n")
            row.lost += sum(line != now for line, now in zip(lines, kept, strict=False))
            row.lost += max(0, len(lines) - len(kept))
    expected, got = results(whole), results(runs_dir)
    different = [n for n in expected | got if expected.get(n) != got.get(n)]
    row.different = row.different or ", ".join(different)


def results(runs_dir: Path) -> dict[str, bytes]:
    """What must not depend on interruptions: samples, contexts, scores, probes."""
    patterns = ("samples.*", "exposure.*", "scores.jsonl", "probe-*.json", "probes.json")
    files = [path for pattern in patterns for path in runs_dir.glob(f"*/eval/*/{pattern}")]
    return {str(p.relative_to(runs_dir)): p.read_bytes() for p in sorted(files)}


if __name__ == "__main__":
    main()
