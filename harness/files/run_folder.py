"""One run on disk: the only module that names a file of a run.

The layout is the docstring of `kdbench.harness.files.records`. Everything else asks here: which runs
there are, what of a run is done, and for its documents, samples, scores, probes, judges and student.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from kdbench.harness.errors import InputError, unfit
from kdbench.harness.files.batches import record_batches
from kdbench.harness.files.inside import inside, sealed
from kdbench.harness.files.records import (
    SCHEMA,
    DriftRecord,
    EvaluationRecord,
    IdentityRecord,
    JudgeRecord,
    LeftOut,
    Manifest,
    PrepareRecord,
    SampleRow,
    ScoreRow,
    Summary,
    TrainRow,
)
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import (
    Document,
    Say,
    read_json,
    read_records,
    write_json,
    write_text,
)
from kdbench.harness.metrics import learn

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InFolder(Generic[T]):
    """Attribute of a folder: what is made of the path of that name in it."""

    name: str
    make: Callable[[Path], T]

    def __get__(self, folder: Any, owner: type) -> T:
        return self.make(inside(folder.path, self.name))


def document(name: str, model: type[R], remedy: str = "") -> InFolder[Document[R]]:
    """Attribute of a folder: the `Document` of that name in it."""
    return InFolder(name, lambda path: Document(path, model, remedy))


COPY = "copy it back from where the folder came from"
AGAIN = f"{COPY}, or write it again with kdbench run and the settings of the run"
"""What to do about a damaged document that a run writes; its student and its answers are kept."""
ASK_AGAIN = f"{COPY}, or take the folder of the evaluation away and ask again with kdbench eval"
TRAIN_AGAIN = f"{COPY}, or take the folder train away and train again with kdbench run"
SCORE_AGAIN = "make it again with kdbench score, or with kdbench eval where a model is asked"
MEASURE_AGAIN = "measure it again with kdbench eval and the same --probes"


@dataclass(frozen=True, slots=True)
class JudgeFolder:
    """``judge/<judge-id>/`` of an evaluation: what one judge was asked and answered."""

    path: Path

    record = document("judge.json", JudgeRecord, "write it again with kdbench judge")
    """What the judge's id stands for."""

    verdicts = InFolder("verdicts.jsonl", Path)
    """`VerdictRow` lines."""

    costs = InFolder("cost.jsonl", Path)
    """`CostRow` lines."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``eval/<task>@<hash8>/``: one evaluation of the run's model."""

    path: Path

    @property
    def key(self) -> str:
        """``<task>@<hash8>``."""
        return self.path.name

    @property
    def task(self) -> str:
        """The task's name, as the key says it."""
        return self.key.partition("@")[0]

    record = document("evaluation.json", EvaluationRecord, f"{COPY}, or run kdbench eval again")
    """What the key stands for."""

    @property
    def generated(self) -> Stage:
        """Answers of all decoding seeds; its info: ``wall_s``, ``sampled``, ``counts``."""
        return Stage(self.path, "generate", ASK_AGAIN)

    @property
    def scored(self) -> Stage:
        """Per-prompt scores; its info: ``scorer``, ``whole``, ``cards`` (how metrics of others are shown)."""
        return Stage(self.path, "score", SCORE_AGAIN)

    def scored_by(self, scorer: str, heal: Say | None = None) -> bool:
        """Whether its scores are there and of this version of the scorer; ``heal`` is `Stage.done`'s."""
        return self.scored.done(heal) and self.scored.info().get("scorer") == scorer

    # -- samples and scores

    def samples_file(self, seed: int) -> Path:
        """`SampleRow` lines of one decoding seed."""
        return inside(self.path, f"samples.seed{seed}.jsonl")

    def seeds(self) -> list[int]:
        """Decoding seeds with stored answers, in order."""
        files = self.path.glob("samples.seed*.jsonl")
        named = (file.name.removeprefix("samples.seed").removesuffix(".jsonl") for file in files)
        return sorted(int(name) for name in named if name.lstrip("-").isdigit())

    def samples(self, seed: int | None = None) -> list[SampleRow]:
        """Stored answers of one decoding seed, or of all; of a finished evaluation, as they were drawn."""
        self.generated.done()
        seeds = self.seeds() if seed is None else [seed]
        return [row for one in seeds for row in read_records(self.samples_file(one), SampleRow)]

    scores_file = InFolder("scores.jsonl", Path)
    """`ScoreRow` lines, one a prompt."""

    def scores(self) -> list[ScoreRow]:
        """Per-prompt scores, as they were written; empty if there are none."""
        self.scored.done()
        return [row for rows in record_batches(self.scores_file, ScoreRow, 1024) for row in rows]

    def keep_scores(self, rows: Sequence[ScoreRow], info: Mapping[str, Any]) -> None:
        """Stores per-prompt scores and marks them done."""
        self.scored.unmark()
        lines = (row.model_dump_json(exclude=None if row.missing else {"missing"}) for row in rows)
        write_text(self.scores_file, "".join(f"{line}\n" for line in lines))
        self.scored.mark([self.scores_file], info)

    results = InFolder("results.json", Path)
    """lm-eval's own results, of tasks that it scores."""

    # -- probes and judges

    def probe(self, name: str) -> Stage:
        """The stage of one probe; its info: ``settings`` and ``wall_s``."""
        return Stage(self.path, f"probe-{name}", MEASURE_AGAIN)

    def keep_probe(self, name: str, report: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """Stores what a probe measured and marks it done."""
        file = inside(self.path, f"probe-{name}.json")
        self.probe(name).unmark()
        write_json(file, report)
        self.probe(name).mark([file], info)

    def probes(self) -> dict[str, dict[str, Any]]:
        """What was measured, by probe."""
        names = sorted(file.name for file in self.path.glob("probe-*.json"))
        found = {}
        for file in [inside(self.path, name) for name in names]:
            name = file.stem.removeprefix("probe-")
            self.probe(name).done()
            found[name] = read_json(file, MEASURE_AGAIN)
        return found

    def part(self, name: str) -> Path:
        """A file that a probe fills bit by bit, so that a kill loses little."""
        return inside(self.path, name)

    def judge(self, identifier: str) -> JudgeFolder:
        """The folder of one judge."""
        return JudgeFolder(inside(self.path, f"judge/{identifier}"))

    def judges(self) -> list[JudgeFolder]:
        """Judges that were asked about these answers."""
        files = sorted(self.path.glob("judge/*/judge.json"))
        return [self.judge(file.parent.name) for file in files]


@dataclass(frozen=True, slots=True)
class Training:
    """``train/`` of a run, or a shared training (teacher, init) in the cache."""

    path: Path

    @property
    def stage(self) -> Stage:
        """Done when the student is written; its info: steps, evaluations, tokens, ``wall_s``."""
        return Stage(self.path, "train", TRAIN_AGAIN)

    def settled(self) -> bool:
        """Whether it is done, and what only resuming needs is cleared away."""
        return self.stage.done() and not inside(self.path, "checkpoints").exists()

    def heal(self, say: Say) -> None:
        """Takes a damaged training away, so that it is made again; for shared ones, under the lock."""
        begun = self.stage.file.exists()
        if begun and not self.stage.done(say):
            shutil.rmtree(self.student, ignore_errors=True)
            self.log_file.unlink(missing_ok=True)

    student = InFolder("student", sealed)
    """The trained model, an ordinary Hugging Face folder."""
    adapter = InFolder("adapter", sealed)
    """Of a training by LoRA: its adapters, a PEFT folder; they are merged into the student."""

    def place(self) -> Path:
        """The folder, for the loop that fills it."""
        return sealed(self.path)

    log_file = InFolder("metrics.jsonl", Path)
    """`TrainRow` lines, one a logged step."""

    def log(self) -> list[TrainRow]:
        """All logged steps; empty before the first."""
        return read_records(self.log_file, TrainRow)


class Config(BaseModel):
    """``config.json`` as readers outside the runner see it: plain data, whatever wrote it."""

    model_config = {"extra": "allow"}

    def tree(self) -> dict[str, Any]:
        """The configuration as stored."""
        return self.model_dump()


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run: what was configured, trained, answered and measured. Creating one touches no file."""

    path: Path

    @property
    def name(self) -> str:
        """``<method>-<student>-<id12>``, or ``eval-<label>-<id12>``."""
        return self.path.name

    @property
    def id(self) -> str:
        """The id at the end of the name."""
        return self.name.rpartition("-")[2]

    # -- documents

    config = document("config.json", Config, AGAIN)
    """The resolved configuration."""

    identity = document("identity.json", IdentityRecord, AGAIN)
    """What the run's id stands for."""

    drift = document(
        "code.json", DriftRecord, f"{COPY}, or take it away to accept today's code as the run's"
    )
    """Which code made it."""

    prepare = document("prepare.json", PrepareRecord, AGAIN)
    """What was checked before training."""

    @property
    def summary(self) -> "SummaryDocument":
        """All that a board needs."""
        remedy = f"make it again with kdbench score {self.path.name}"
        return SummaryDocument(inside(self.path, "summary.json"), Summary, remedy)

    manifest = document("manifest.json", Manifest, AGAIN)
    """How to make the run again; written last."""

    left_out = document("left-out.json", LeftOut, COPY)
    """What of a run that came in a bundle is not here; no other run has it."""

    # -- what is done

    def begun(self) -> bool:
        """Whether this is a run folder at all, readable or not."""
        return any(os.path.lexists(self.path / name) for name in ("config.json", "summary.json"))

    def began(self) -> int | None:
        """Unix time at which its configuration was written; None of a summary alone."""
        try:
            return int(os.lstat(self.path / "config.json").st_mtime)
        except OSError:
            return None

    def trained(self, say: Say) -> bool:
        """Whether the training is over and everything about it is written, byte by byte.

        Args:
            say: told of damaged documents, which a run writes again.

        Raises:
            Damaged: the student is not what was trained.
        """
        documents = (self.config, self.identity, self.prepare, self.manifest)
        written = self.summary.exists() and all(each.sound(say) for each in documents)
        return self.training.stage.done() and written

    def marked(self) -> bool:
        """Whether its training says that it is over, for listings: nothing is read but markers."""
        written = self.manifest.exists() and self.summary.exists()
        return self.training.stage.marked() and written

    def stages(self) -> list[str]:
        """Stages that are over, in their order, for listings."""
        over = {"prepare": self.prepare.exists(), "train": self.training.stage.marked()}
        return [name for name, done in over.items() if done]

    training = InFolder("train", Training)
    """Its training."""

    # -- evaluations

    def evaluation(self, key: str) -> Evaluation:
        """An evaluation by its key, there or not."""
        return Evaluation(inside(self.path, f"eval/{key}"))

    def evaluations(self) -> list[Evaluation]:
        """Evaluations that were begun, by key."""
        paths = sorted(inside(self.path, "eval").glob("*@*"))
        return [self.evaluation(path.name) for path in paths if path.is_dir()]

    def report(self) -> Path:
        """Where ``kdbench report`` writes."""
        return sealed(inside(self.path, "report"))

    def beside(self) -> Iterator["RunFolder"]:
        """The other runs in the same folder of runs."""
        here = self.path.resolve()
        return (run for run in runs_in(here.parent) if run.path != here)


class SummaryDocument(Document[Summary]):
    """summary.json; of another schema it is refused in a sentence."""

    def read(self) -> Summary:
        """The summary; metrics of others that it describes are known from then on.

        Raises:
            InputError: none, not a summary, or of another schema.
        """
        if not self.exists():
            raise InputError(f"{self.path.parent} is not finished: it has no summary yet")
        stored = read_json(self.path, self.remedy)
        version = stored.get("schema_version") if isinstance(stored, dict) else None
        if isinstance(version, int) and version != SCHEMA:
            older = "run it again, or read it with the kdbench that made it"
            remedy = "upgrade kdbench" if version > SCHEMA else older
            said = f"has schema {version}, this kdbench reads {SCHEMA}"
            raise InputError(f"{self.path} {said}; {remedy}")
        try:
            summary = Summary.model_validate(stored)
        except ValidationError as error:
            problem = unfit(f"{self.path} is no summary", error)
            raise InputError(f"{problem}; continue the run, or take its folder away") from error
        learn(scores.cards for scores in summary.scores.values())
        return summary


def runs_in(folder: Path) -> list[RunFolder]:
    """Run folders directly in a folder of runs, by name; empty if there is no such folder."""
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    return [run for run in map(RunFolder, children) if run.path.is_dir() and run.begun()]


def find_runs(paths: Iterable[Path | str]) -> list[RunFolder]:
    """Run folders among ``paths``, which are run folders or folders of runs; each once, by name.

    Raises:
        InputError: a path is no folder.
    """
    found: dict[Path, RunFolder] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"no folder {path}; give a run folder or a folder of runs")
        here = RunFolder(path)
        for run in [here] if here.begun() else runs_in(path):
            found.setdefault(run.path.resolve(), RunFolder(run.path.resolve()))
    return sorted(found.values(), key=lambda run: (run.name, str(run.path)))


def verdict_files(source: Path) -> list[Path]:
    """A file of verdicts, or all of them below a folder."""
    return sorted(source.rglob("verdicts.jsonl")) if source.is_dir() else [source]
