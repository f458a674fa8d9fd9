"""Crash points: commands killed at any of their file operations, continued, and compared.

A `Nursery` forks commands from one process that has imported everything, so a trial takes a fraction of
a second. A `Scene` is a command with what lies there before it; it always runs in the same folder, so
that what it writes is the same to the byte, but for what `comparable` blanks: clocks and memory.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

HERE = Path(__file__).parent
HOW = ("before", "after", "torn")
# and what holds times or numbers of files, or is the digest of what does
CLOCKS = {
    "wall_s",
    "finished",
    "peak_mb",
    "planned_mb",
    "asked",
    "latency_s",
    "seconds",
    "digest",
    "stamps",
}
KILLED = -9


class Operation(NamedTuple):
    """One file operation of a command."""

    verb: str
    path: str


class Crash(NamedTuple):
    """Where a command dies: the number of the operation, from 1, and how."""

    at: int
    how: str


class Nursery:
    """Forks commands; use as a context.

    Args:
        scratch: folder for the compiled library and outputs.
    """

    def __init__(self, scratch: Path) -> None:
        self._library = scratch / "crash_points.so"
        self.output = scratch / "output.log"
        source = HERE / "crash_points.c"
        compiler = shutil.which("cc") or "gcc"
        build = [compiler, "-shared", "-fPIC", "-O1", "-o", self._library, source, "-ldl"]
        subprocess.run(build, check=True)

    def __enter__(self) -> Self:
        environment = {**os.environ, "LD_PRELOAD": str(self._library), "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "crash_nursery.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def run(
        self,
        arguments: list[str],
        folder: Path,
        roots: tuple[Path, Path],
        *,
        crash: Crash | None = None,
        trace: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> int:
        """Runs a command in ``folder``; returns its exit code, negative: the signal that ended it."""
        self.output.write_bytes(b"")
        at, how = (crash.at, HOW.index(crash.how)) if crash else (0, 0)
        job = {
            "arguments": arguments,
            "folder": str(folder),
            "roots": [str(root) for root in roots],
            "at": at,
            "how": how,
            "trace": str(trace) if trace else "",
            "output": str(self.output),
            "environment": environment or {},
            "whole": crash is None,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["code"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery ended"
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass
class Scene:
    """A command and what is there before it.

    Attributes:
        nursery: who runs it.
        name: shown in counts.
        arguments: of kdbench; run in ``stage``, which holds ``runs`` and ``cache``.
        stage: the one folder in which it happens.
        before: what lies in ``stage`` before the command; copied for every trial.
        check: (scene, kills) -> what else is wrong after a trial, or nothing.
    """

    nursery: Nursery
    name: str
    arguments: list[str]
    stage: Path
    before: Path
    check: "Callable[[Scene, int], str]" = lambda scene, kills: ""
    operations: list[Operation] = field(default_factory=list)
    expected: dict[str, bytes] = field(default_factory=dict)

    def rehearse(self) -> None:
        """The uninterrupted command: its operations and what it leaves."""
        self.set()
        trace = self.stage.parent / "trace"
        trace.unlink(missing_ok=True)
        code = self._run(trace=trace)
        assert code == 0, f"{self.name}: exit {code}\n{self.said()}"
        lines = trace.read_text().splitlines()
        self.operations = [Operation(*line.split("\t", 1)) for line in lines]
        self.expected = snapshot(self.stage)

    def set(self) -> None:
        """Puts everything back as it was before the command."""
        shutil.rmtree(self.stage, ignore_errors=True)
        shutil.copytree(self.before, self.stage)

    def trial(self, *crashes: Crash) -> str:
        """Crashes and continues; returns what is wrong then, or nothing."""
        self.set()
        for crash in crashes:
            code = self._run(crash=crash)
            if code not in (0, KILLED):
                return f"exit {code} of a command that should have been killed: {self.said()}"
        code = self._run()
        if code != 0:
            return f"exit {code} of the continued command: {self.said()}"
        return difference(self.expected, snapshot(self.stage)) or self.check(self, len(crashes))

    def said(self) -> str:
        """The end of the last command's output."""
        return self.nursery.output.read_text()[-3000:]

    def _run(self, **more: Any) -> int:
        roots = (self.stage / "runs", self.stage / "cache")
        environment = {"KDBENCH_CACHE": str(roots[1])}
        return self.nursery.run(self.arguments, self.stage, roots, environment=environment, **more)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file and empty folder below a folder, comparable."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                found[f"{name}/"] = b""
        else:
            found[name] = comparable(path)
    # what boards remember is named by what they show, and they show times
    for name in [name for name in found if name.startswith("cache/board/")]:
        content = found.pop(name)
        found[f"cache/board/{hashlib.sha256(content).hexdigest()}"] = content
    return found


def comparable(path: Path) -> bytes:
    """A file without what clocks and memory meters put there."""
    data = b"" if path.suffix == ".log" else path.read_bytes()  # what libraries print has rates
    if path.suffix in (".json", ".done"):
        content = json.loads(data)
        if path.name == "summary.json":  # money in flight at a kill stays spent; see `money`
            for judge in content["judge"].values():
                judge.update(prompt_tokens=0, completion_tokens=0, cost=0)
        return json.dumps(_timeless(content)).encode()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in data.splitlines()]
        if path.name == "cost.jsonl":
            rows = settled(rows)
        return "\n".join(json.dumps(_timeless(row)) for row in rows).encode()
    if path.name == "README.md":
        return re.sub(rb"\d+(\.\d+)? (s|min|h)\b", b"TIME", data)
    return data


def settled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A judge's costs without reservations of requests that a kill left unanswered."""
    pairs = zip(rows, [*rows[1:], {"event": "reserved"}], strict=True)
    return [row for row, after in pairs if {row["event"], after["event"]} != {"reserved"}]


def money(scene: Scene, kills: int) -> str:
    """Whether a judge's costs are those of its ledger, which may hold one open request a kill."""
    for ledger in scene.stage.glob("runs/*/eval/*/judge/*/cost.jsonl"):
        rows = [json.loads(line) for line in ledger.read_text().splitlines()]
        if (unanswered := len(rows) - len(settled(rows))) > kills:
            return f"{unanswered} requests unanswered after {kills} kills"
        summary = json.loads((ledger.parents[4] / "summary.json").read_text())
        (judge,) = summary["judge"].values()
        for name in ("prompt_tokens", "completion_tokens"):
            if judge[name] != sum(row[name] for row in rows):
                return f"{name} of the summary is not that of the ledger"
    return ""


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: bool(v) if k in CLOCKS else _timeless(v) for k, v in value.items()}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def difference(expected: dict[str, bytes], found: dict[str, bytes]) -> str:
    """How two snapshots differ, or nothing."""
    said = [f"lacks {name}" for name in expected.keys() - found.keys()]
    said += [f"leaves {name}" for name in found.keys() - expected.keys()]
    for name in sorted(expected.keys() & found.keys()):
        a, b = expected[name], found[name]
        if a != b:
            at = next(
                (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                min(len(a), len(b)),
            )
            place = slice(max(0, at - 80), at + 120)
            said.append(f"{name} differs: {a[place]!r} against {b[place]!r}")
    return "; ".join(said)
