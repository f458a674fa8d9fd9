"""What a study takes for done: today's rows, models and scorers count, and references are part of a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluations import RECORD

from kdbench.harness.config import RunConfig, with_precision
from kdbench.harness.contents import Circumstances, recall, remember
from kdbench.harness.data.examples import examples_sha256
from kdbench.harness.evaluation.evaluate import evaluation_records, protocol_of
from kdbench.harness.evaluation.facts import model_facts
from kdbench.harness.evaluation.names import Asked, tasks_of
from kdbench.harness.evaluation.scoring import scored_as
from kdbench.harness.files.records import (
    EvaluationRecord,
    EvaluationScores,
    IdentityRecord,
    Manifest,
    ModelRef,
    PrepareRecord,
    RunCard,
    Summary,
)
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.identity import Contents, evaluation_key, model_id
from kdbench.harness.lm.version import scored_by
from kdbench.harness.own.tasks import asked_rows
from kdbench.harness.references import reference_folder
from kdbench.harness.resolve import says_tuning
from kdbench.harness.runner.summary import restate
from kdbench.harness.study import answered
from kdbench.harness.study.definition import Cell, Study, expand
from kdbench.harness.study.plan import DONE, Plan, PlannedCell
from kdbench.harness.study.results import make_results, references
from kdbench.harness.study.state import State, missing_of, missing_references
from kdbench.reports.text.formats import write

TEACHER = ModelRef(name="big", fingerprint="b", parameters=10, tokenizer="t")
WEAK = TEACHER.model_copy(update={"fingerprint": "w"})
START = ModelRef(name="small", fingerprint="i", parameters=1, tokenizer="t")
STUDENT = START.model_copy(update={"fingerprint": "s"})
CONTENTS = Contents(teacher="t", student="s", train="a", dev="b", text="")


def rows(path: Path, *answers: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps({"instruction": f"say {a}", "output": a}) + "\n" for a in answers)
    )
    return path


def cell(*settings: str, tasks: Sequence[str] = ()) -> Cell:
    study = Study(title="t", suite="mini-test", seeds=(10,), methods=("sft",), tasks=tuple(tasks))
    (found,) = expand(study, settings)
    return found.model_copy(update={"config": with_precision(found.config, "fp32")})


# -- what models and data contain -----------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Circumstances, RunConfig]:
    """A remembered configuration: rows in a folder of the home, named with their split; own models."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    rows(tmp_path / "rows" / "train.jsonl", "a")
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.json").write_text("{}")
    (tmp_path / "small.json").write_text("{}")
    asked = cell().config
    pair = asked.pair.model_copy(update={"student": str(tmp_path / "small.json")})
    data = asked.data.model_copy(update={"train": "~/rows:train"})
    asked = asked.model_copy(update={"pair": pair, "data": data})
    where = Circumstances(tmp_path / "cache", "cpu", None)
    remember(where, asked, with_precision(asked, "fp32"), CONTENTS, [tmp_path / "big"])
    return where, asked


def test_what_decides_nothing_leaves_a_memory(
    world: tuple[Circumstances, RunConfig], tmp_path: Path
) -> None:
    (tmp_path / "big" / "README.md").write_text("said")
    (tmp_path / "rows" / ".cache").write_text("kept")
    assert recall(*world) is not None


@pytest.mark.parametrize(
    "changed",
    [
        "rows/train.jsonl",
        "rows/train-2.jsonl",
        "big/chat_template.jinja",
        "small.json",
        "big/config.json",
    ],
)
def test_changed_and_new_files_end_a_memory(
    changed: str, world: tuple[Circumstances, RunConfig], tmp_path: Path
) -> None:
    assert recall(*world) is not None
    rows(tmp_path / changed, "b", "c")
    assert recall(*world) is None


# -- evaluations ----------------------------------------------------------------------------------


def evaluated(run: RunFolder, config: RunConfig, model: ModelRef | None, label: str = "") -> None:
    """A folder whose model was asked all of the configuration's files, and its summary."""
    scores = {}
    for task in tasks_of(config.tasks):
        asked: Any = SimpleNamespace(
            protocol=protocol_of(config),
            task=task.name,
            source="file",
            place=task.place,
            edition="file",
            template=config.task_template,
            data_sha256=examples_sha256(asked_rows(task.place, config)),
        )
        (record,) = evaluation_records(config, asked, model)
        evaluation = run.evaluation(evaluation_key(record))
        evaluation.record.write(record)
        scorer = scored_as(record, config.tasks.rouge_tokenizer)
        evaluation.keep_scores([], {"scorer": scorer})
        scores[evaluation.key] = EvaluationScores(
            task=task.name,
            edition="file",
            protocol=record.protocol,
            metrics={},
            column="c",
            scorer=scorer,
        )
    card = RunCard(
        id=run.id,
        kind="eval" if label else "run",
        method=label or "sft",
        suite=config.suite,
        regime="matched",
        teacher=None,
        student=model,
        training_seed=None if label else 10,
        division="reference" if label else "closed",
    )
    run.summary.write(Summary(run=card, scores=scores))


@pytest.fixture
def finished(tmp_path: Path) -> tuple[RunFolder, Cell]:
    """A run of a file of rows, all of it there but for its references."""
    rows(tmp_path / "test.jsonl", "a", "b")
    made = cell(tasks=[f"my={tmp_path / 'test.jsonl'}"])
    run = RunFolder(tmp_path / "runs" / "sft-small-0123456789ab")
    evaluated(run, made.config, STUDENT)
    run.config.write(made.config)
    run.identity.write(IdentityRecord(version=1, parts={"contents": {"student": model_id(START)}}))
    run.prepare.write(PrepareRecord(teacher=TEACHER, init=START))
    config = made.config.model_dump(mode="json")
    empty = ("versions", "hardware", "data", "generation", "seeds", "cost")
    said: dict[str, Any] = {
        "kdbench": "0",
        "git_commit": None,
        "git_diff_sha256": None,
        "argv": [],
        "drift": [],
    }
    sums = {"tokenizer_sha256": "", "teacher": TEACHER, "init": START, "config": config}
    said |= sums | {key: {} for key in empty}
    run.manifest.write(Manifest.model_validate(said))
    run.training.stage.mark([], {})
    return run, made


def test_a_run_is_done_for_the_rows_settings_and_scorer_of_now(
    finished: tuple[RunFolder, Cell], tmp_path: Path
) -> None:
    run, made = finished
    config = made.config
    assert missing_of(run, config) == []

    rows(tmp_path / "test.jsonl", "c", "d")
    assert missing_of(run, config) == ["my"]
    (tmp_path / "test.jsonl").unlink()
    assert missing_of(run, config) == ["my"]  # who asks it says what is wrong
    rows(tmp_path / "test.jsonl", "a", "b")
    assert missing_of(run, config) == []

    rough = config.generate.model_copy(update={"dtype": "bf16"})
    assert config.answer_precision != "bf16"
    assert missing_of(run, config.model_copy(update={"generate": rough})) == ["my"]
    company = config.generate.model_copy(update={"batch_size": 7, "chunk": 3})  # of another machine
    assert missing_of(run, config.model_copy(update={"generate": company})) == []
    words = config.tasks.model_copy(update={"rouge_tokenizer": "unicode"})
    assert missing_of(run, config.model_copy(update={"tasks": words})) == ["my"]
    (evaluation,) = run.evaluations()
    evaluation.keep_scores(evaluation.scores(), {"scorer": "of last year"})
    assert missing_of(run, config) == ["my"]


def test_task_files_are_told_by_content_not_by_place(
    finished: tuple[RunFolder, Cell], tmp_path: Path
) -> None:
    run, made = finished
    for place in ("then", "now"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "theirs.yaml").write_text("task: theirs\n")
    then, now = (
        made.config.tasks.model_copy(
            update={"names": ("theirs",), "include_path": str(tmp_path / place)}
        )
        for place in ("then", "now")
    )
    config = made.config.model_copy(update={"tasks": then})
    facts = model_facts(config, STUDENT) | {"edition": "theirs", "template": "none"}
    own = {"task": "theirs", "source": "lm-eval", "place": then.include_path, "seeds": []}
    record = EvaluationRecord(
        protocol=then.protocol,
        data_sha256="of then",
        max_prompt=None,
        decoding=None,
        **facts,
        **own,
    )
    evaluation = run.evaluation(evaluation_key(record))
    evaluation.record.write(record)
    scorer = scored_by("theirs", [tmp_path / "then"])
    evaluation.keep_scores([], {"scorer": scorer})
    summary = run.summary.read()
    (other,) = summary.scores.values()
    scores = {evaluation.key: other.model_copy(update={"task": "theirs"})}
    run.summary.write(summary.model_copy(update={"scores": scores}))

    asked = config.model_copy(update={"tasks": now})
    assert missing_of(run, config) == missing_of(run, asked) == []
    (tmp_path / "now" / "theirs.yaml").write_text("task: theirs\nnum_fewshot: 3\n")
    assert missing_of(run, asked) == ["theirs"]


def test_what_a_search_said_of_a_run_only_a_search_says_anew(
    finished: tuple[RunFolder, Cell],
) -> None:
    run, _ = finished
    settings = ("tuning.by=search", "tuning.trials=8", "tuning.share=0.25")
    place = [f"my={run.path.parent.parent / 'test.jsonl'}"]
    of_suite = cell(*settings, tasks=place).config  # as a suite has it, of an earlier search
    found = cell(*settings, "tuning.finalists=2", tasks=place).config

    def stored() -> Any:
        return run.config.read().tree().get("tuning") or {}

    run.config.write(of_suite.model_copy(update={"tuning": None}))
    assert missing_of(run, of_suite) == ["how it was tuned"]  # a suite speaks where no search did
    restate(run, of_suite, given=False)
    assert missing_of(run, of_suite) == [] and stored()["finalists"] == 0
    assert missing_of(run, found, given=True) == ["how it was tuned"]
    restate(run, found, given=True)
    # what follows, as kdbench run, the finals of the same search and its winners, has nothing to do
    assert missing_of(run, of_suite) == missing_of(run, found, given=True) == []
    restate(run, of_suite, given=False)
    assert stored()["finalists"] == 2
    assert run.manifest.read().config["tuning"]["finalists"] == 2


def test_whose_word_on_the_search_it_is() -> None:
    assert says_tuning(cell("tuning.trials=8").arguments)
    assert says_tuning(["kdbench", "run", "--set=tuning.by=search"])
    assert not says_tuning(cell("train.lr=0.1").arguments)


def test_probes_of_other_samples_are_missing(finished: tuple[RunFolder, Cell]) -> None:
    run, made = finished
    tasks = made.config.tasks.model_copy(update={"probes": ("truth", "loss")})
    config = made.config.model_copy(update={"tasks": tasks})
    assert missing_of(run, config) == ["truth of my", "loss of my"]
    (evaluation,) = run.evaluations()
    evaluation.keep_probe("truth", {}, {"settings": {"samples": 10, "seed": 10}})
    evaluation.keep_probe("loss", {}, {"settings": {}})
    assert missing_of(run, config) == []
    more = tasks.model_copy(update={"probe_samples": 20})
    assert missing_of(run, config.model_copy(update={"tasks": more})) == ["truth of my"]


def test_answers_to_a_task_of_lm_eval_are_of_their_seeds_and_template() -> None:
    config = cell("generate.seeds=[10,20]", "tasks.template=none").config
    wanted = {"source": "lm-eval", "task": "own", "edition": "lm-eval", "template": "none"}
    facts = {n: v for n, v in model_facts(config, None).items() if n not in ("model", "tokenizer")}
    record = EvaluationRecord.model_validate(
        {**RECORD, **facts, **wanted, "protocol": config.tasks.protocol, "seeds": [10, 20]}
    )
    task = Asked("own", "lm-eval")
    assert record.decoding is not None and record.decoding.temperature
    assert answered._settings(record, task, config)
    for other in ("generate.seeds=[10,30]", "tasks.template=mini"):
        config = cell("generate.seeds=[10,20]", "tasks.template=none", other).config
        assert not answered._settings(record, task, config)


def test_references_that_an_end_left_out_are_missing(finished: tuple[RunFolder, Cell]) -> None:
    run, made = finished
    config, runs = made.config, run.path.parent
    left = ["my of teacher", "my of sft-init"]  # the truth is asked its own world's tasks only
    assert missing_references(run, config, None) == left

    weak = reference_folder(runs, "teacher", model_id(WEAK), config.suite)
    evaluated(weak, config, WEAK, "teacher")  # of another comparison in the same folder
    assert missing_references(run, config, None) == left

    teacher = reference_folder(runs, "teacher", model_id(TEACHER), config.suite)
    evaluated(teacher, config, TEACHER, "teacher")
    init = reference_folder(runs, "sft-init", model_id(START), config.suite)
    evaluated(init, config, START, "sft-init")
    assert missing_references(run, config, None) == []
    init.summary.path.unlink()  # killed just before it
    assert missing_references(run, config, None) == left[1:]

    planned = [PlannedCell(made, State("cached", None, run), DONE)]
    kept = {path.name for path in references(planned)}
    assert kept == {teacher.name}


def test_a_run_that_is_only_trained_has_no_references(finished: tuple[RunFolder, Cell]) -> None:
    run, made = finished
    tasks = made.config.tasks.model_copy(update={"names": ()})
    assert missing_references(run, made.config.model_copy(update={"tasks": tasks}), None) == []


@pytest.mark.parametrize("base", [None, "sft"])
def test_students_that_were_asked_nothing_are_listed(
    base: str | None, finished: tuple[RunFolder, Cell], tmp_path: Path
) -> None:
    run, made = finished
    tasks = made.config.tasks.model_copy(update={"names": ()})
    only = made.model_copy(update={"config": made.config.model_copy(update={"tasks": tasks})})
    study = Study(title="t", suite="mini-test", methods=("sft",), tasks=(), base=base)
    plan = Plan([PlannedCell(only, State("cached", None, run), DONE)])
    found = make_results(study, plan, tmp_path / "out", [])
    assert found.trained == (run.path,) and found.data["trained"] == [str(run.path)]
    said = write(found.shown, "md")
    assert "trained, nothing was asked" in said and run.path.name in said
