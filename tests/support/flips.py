"""One flipped byte in a finished run or in what runs share, and what its next use makes of it."""

import contextlib
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from judge_server import JudgeServer, say

from kdbench.harness import cli
from kdbench.harness.config import Request
from kdbench.harness.contents import recall
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.scoring import described, score
from kdbench.harness.evaluation.texts import describe
from kdbench.harness.files.run_folder import Evaluation, RunFolder, Training
from kdbench.harness.files.selfcheck import checked_row
from kdbench.harness.files.store import read_json, read_rows
from kdbench.harness.judge.verdict_log import VerdictLog
from kdbench.harness.progress import Progress
from kdbench.harness.resolve import resolve
from kdbench.harness.runner import prepare, summary
from kdbench.harness.runner.models import base_student
from kdbench.harness.session import open_session
from kdbench.reports.board import leaderboard
from kdbench.reports.runs import finished_runs
from kdbench.trainers.sources import AnswerRow, TeacherAnswers
from kdbench.trainers.types import Answer, Prompt, Sequence

Outcome = Literal["healed", "refused", "wrong"]
SETTINGS = ("train.steps=2", "train.eval_every=1", "train.save_every=1", "init_sft.steps=2")
LOGS = ("metrics.jsonl", "README.md", "run.log")
"""Files that nothing is computed from."""


class Lines(Progress):
    """Progress that keeps what it would say."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class World:
    """A run of the mini world, its references, a judge's verdicts and a cache of its own.

    Args:
        base: where all of that is made.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.config = resolve(suite="mini-test", method="seqkd", assignments=SETTINGS)
        self.arguments = ["run", "--suite", "mini-test", "--method", "seqkd", "--device", "cpu"]
        self.arguments += [part for setting in SETTINGS for part in ("--set", setting)]
        self.arguments += ["--runs-dir", str(base / "runs")]
        self.progress = Lines()
        request = Request(
            config=self.config,
            runs_dir=base / "runs",
            cache_dir=base / "cache",
            device="cpu",
            quiet=True,
        )
        self.session = open_session(request, self.progress)
        self._make()
        self.files = {path: path.read_bytes() for path in self.all_files()}
        (folder,) = (base / "runs").glob("seqkd-*")
        self.run = RunFolder(folder)
        self.shown = leaderboard([base / "runs"], "json")
        self.known = recall(self.session.where, self.config)
        self.student = base_student(
            self.session, self.config, prepare.raw_teacher(self.session)
        ).card.fingerprint
        self.summaries = {run.folder.name: run.summary for run in finished_runs([base / "runs"])[0]}

    def _make(self) -> None:
        assert self.called(self.arguments)[0] == 0
        runs = self.base / "runs"
        with JudgeServer(lambda body, number: say("Good.\nSCORE: 7")) as server:
            code, said = self.called(
                [
                    *("judge", str(next(runs.glob("seqkd-*"))), "--tasks", "dolly", "--limit", "2"),
                    *("--judge-base-url", server.url, "--set", "sanity_prompts=0"),
                ]
            )
        assert code == 0, said
        code, said = self.called(["leaderboard", str(runs)])
        assert code == 0, said

    def called(self, arguments: list[str]) -> tuple[int, str]:
        """Exit code and everything said of a command line, run in this process."""
        said = io.StringIO()
        cache = mock.patch.dict(os.environ, KDBENCH_CACHE=str(self.base / "cache"))
        try:
            with cache, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                cli.main(arguments)
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
        raise AssertionError("a command line ends with its code")

    def all_files(self) -> list[Path]:
        """Files that are there now."""
        return sorted(p for p in self.base.rglob("*") if p.is_file())

    def targets(self) -> dict[str, list[Path]]:
        """What is flipped, by kind of file."""
        kinds: dict[str, list[Path]] = {}
        for path in self.files:
            if path.name not in LOGS and self.files[path] and "lock" not in path.name:
                kinds.setdefault(kind_of(path, self.base), []).append(path)
        return kinds

    def flip(self, path: Path, dice: random.Random) -> int:
        """Changes bits of one byte, keeping size and time of change; returns its place."""
        data = bytearray(self.files[path])
        place = dice.randrange(len(data))
        data[place] ^= dice.randrange(1, 256)
        stat = path.stat()
        path.write_bytes(bytes(data))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return place

    def restore(self) -> None:
        """Puts everything back."""
        for path in self.all_files():
            if path not in self.files:
                path.unlink()
        for path, data in self.files.items():
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def command(self, path: Path) -> Outcome:
        """The same from the command line: the run asked for again, or its content checked."""
        kind = kind_of(path, self.base)
        if kind in ("run/code.json", "run/judge.json", "run/verdicts.jsonl", "run/cost.jsonl"):
            code, said = self.called(["check", "--content", str(self.run.path)])
            return "refused" if code == 3 and path.name in said else "wrong"
        code, said = self.called(self.arguments)
        told = str(path) in said.replace("\n", "")
        if code:
            return "refused" if code == 2 and told and "Traceback" not in said else "wrong"
        results = ("*.safetensors", "samples.*.jsonl", "scores.jsonl")
        same = all(
            file.read_bytes() == data
            for file, data in self.files.items()
            if any(file.match(pattern) for pattern in results)
        )
        # what is looked up faster is made again without a word; no result is in it
        silent = kind in ("cache/known", "cache/board", "cache/preflight")
        return "healed" if same and (told or silent) else "wrong"

    # -- the next use of each kind of file

    def use(self, path: Path) -> Outcome:
        """What the code that reads this file next does with it."""
        self.progress.lines.clear()
        try:
            return self._next_use(path)(path)
        except InputError as error:
            named = str(path) in str(error) or path.name in str(error)
            return "refused" if named and "\n" not in str(error) else "wrong"

    def _next_use(self, path: Path) -> Callable[[Path], Outcome]:
        kind = kind_of(path, self.base)
        uses: dict[str, Callable[[Path], Outcome]] = {
            "cache/base": self._base,
            "cache/teachers": self._training,
            "cache/inits": self._training,
            "cache/teacher-answers": self._answers,
            "cache/known": self._known,
            "cache/board": self._remembered,
            "run/student": self._student,
            "run/train.done": self._student,
            "run/code.json": self._drift,
            "run/summary.json": self._summary,
            "run/samples": self._samples,
            "run/generate.done": self._samples,
            "run/evaluation.json": self._board,
            "run/scores.jsonl": self._scores,
            "run/score.done": self._scores,
            "run/probe": self._probe,
            "run/verdicts.jsonl": self._verdicts,
            "run/cost.jsonl": self._verdicts,
        }
        if kind in (
            "run/config.json",
            "run/identity.json",
            "run/prepare.json",
            "run/manifest.json",
        ):
            return self._document if self.of(path).path == self.run.path else self._read
        return uses.get(kind, self._read)

    def of(self, path: Path) -> RunFolder:
        """The run that a file belongs to."""
        name = path.relative_to(self.base / "runs").parts[0]
        return RunFolder(self.base / "runs" / name)

    def _evaluation(self, path: Path) -> Evaluation:
        return self.of(path).evaluation(path.relative_to(self.of(path).path).parts[1])

    def _told(self, path: Path) -> bool:
        return any(path.name in line or str(path) in line for line in self.progress.lines)

    def _same(self, *paths: Path) -> Outcome:
        """Healed, if somebody said so and these files are again what they were."""
        same = all(path.read_bytes() == self.files[path] for path in paths)
        return "healed" if same and self.progress.lines else "wrong"

    def _base(self, path: Path) -> Outcome:
        teacher = prepare.raw_teacher(self.session)
        made = base_student(self.session, self.config, teacher)
        same = made.card.fingerprint == self.student
        return "healed" if same and self._told(path) else "wrong"

    def _training(self, path: Path) -> Outcome:
        kind, name = path.relative_to(self.base / "cache").parts[:2]
        out = Training(self.base / "cache" / kind / name)
        with contextlib.suppress(InputError):
            if out.settled():
                return "wrong"
        out.heal(self.progress.say)
        gone = out.stage.marker() is None and not out.student.exists()
        return "healed" if gone and self._told(path) else "wrong"

    def _answers(self, path: Path) -> Outcome:
        rows = [AnswerRow(**row) for row in _rows(self.files[path])]
        most = max(row.index for row in rows)
        train = [Sequence((1,), (2,), key=-i) for i in range(most + 1)]
        right = {}
        for row in rows:
            train[row.index] = Sequence((1,), (2,), key=row.key)
            right[row.key] = tuple(row.response)

        def sample(prompts: list[Prompt]) -> list[Answer]:
            return [Answer(right[prompt.key], True) for prompt in prompts]

        answers = TeacherAnswers(train, path, sample, writes=True, say=self.progress.say)
        found = [s.response for s in answers.pick([row.index for row in rows])]
        again = [AnswerRow(**row) for row in read_rows(path)]
        same = found == [tuple(row.response) for row in rows] and len(again) == len(rows)
        torn = not self.progress.lines and again == rows  # the last line end: as if it was killed
        return "healed" if same and (self._told(path) or torn) else "wrong"

    def _known(self, path: Path) -> Outcome:
        return "healed" if recall(self.session.where, self.config) is None else "wrong"

    def _remembered(self, path: Path) -> Outcome:
        with contextlib.suppress(InputError):
            read_json(path)
            return "wrong"
        text = leaderboard([self.base / "runs"], "json", cache=path.parent)
        return "healed" if text == self.shown else "wrong"

    def _student(self, path: Path) -> Outcome:
        self.of(path).trained(self.progress.say)
        return "wrong"

    def _document(self, path: Path) -> Outcome:
        whole = self.run.trained(self.progress.say)  # no: `kdbench run` writes it again
        return "healed" if not whole and self._told(path) else "wrong"

    def _drift(self, path: Path) -> Outcome:
        prepare.check_drift(self.session, self.of(path))
        return "wrong"

    def _summary(self, path: Path) -> Outcome:
        run = self.of(path)
        left_out = finished_runs([self.base / "runs"])[1]
        if not any(run.name in line for line in left_out):
            return "wrong"
        summary.mend(run, self.progress.say)
        mended, before = run.summary.read(), self.summaries[run.name]
        same = mended.model_copy(update={"judge": before.judge}) == before
        return "healed" if same and self._told(path) else "wrong"

    def _board(self, path: Path) -> Outcome:
        left_out = finished_runs([self.base / "runs"])[1]
        named = any(self.of(path).name in line and path.name in line for line in left_out)
        return "refused" if named else "wrong"

    def _samples(self, path: Path) -> Outcome:
        self._evaluation(path).samples()
        return "wrong"

    def _scores(self, path: Path) -> Outcome:
        evaluation = self._evaluation(path)
        if path.name == "scores.jsonl" and self._board(path) != "refused":
            return "wrong"
        scorer = evaluation.scored.info()["scorer"] if path.name == "scores.jsonl" else ""
        if evaluation.scored_by(scorer, self.progress.say):
            return "wrong"
        score(evaluation)
        return self._same(evaluation.scores_file)

    def _probe(self, path: Path) -> Outcome:
        evaluation = self._evaluation(path)
        if described(evaluation, self.progress.say):
            return "wrong"
        describe(evaluation)
        return self._same(path.with_suffix(".json"))

    def _verdicts(self, path: Path) -> Outcome:
        log = VerdictLog(self._evaluation(path).judge(path.parent.name))
        rows = len(_rows(self.files[path]))
        # the end of the last line: as if a kill had torn it; what it said is asked or booked again
        return "healed" if len(read_rows(path)) == rows - 1 and len(log) >= 0 else "wrong"

    def _read(self, path: Path) -> Outcome:
        read_json(path)
        return "wrong"


def _rows(data: bytes) -> list[dict[str, Any]]:
    """Rows of a file that is whole, without their digests."""
    return [checked_row(line, json.loads(line)) for line in data.splitlines()]


def kind_of(path: Path, base: Path) -> str:
    """What sort of file it is: where in the cache, or which document of a run."""
    parts = path.relative_to(base).parts
    if parts[0] == "cache":
        return "/".join(parts[:2])
    if "student" in parts:
        return "run/student"
    name = path.name
    if name.startswith("samples."):
        return "run/samples"
    return "run/probe" if name.startswith("probe-") else f"run/{name}"
