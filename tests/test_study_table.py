"""A study's table has a column for whatever the study asks, and for nothing else."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from board_runs import PROMPTS, TEACHER
from board_runs import STUDENT as MODEL

from kdbench.harness.config import RunConfig, with_precision
from kdbench.harness.contents import Circumstances
from kdbench.harness.data.examples import examples_sha256
from kdbench.harness.evaluation.evaluate import evaluation_records, protocol_of
from kdbench.harness.evaluation.facts import model_facts
from kdbench.harness.evaluation.names import Asked, tasks_of
from kdbench.harness.evaluation.scoring import scored_as, summarised
from kdbench.harness.files.records import EvaluationRecord, RunCard, ScoreRow, Summary
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.identity import evaluation_key
from kdbench.harness.lm.version import scored_by
from kdbench.harness.own.tasks import asked_rows
from kdbench.harness.study.definition import Cell, Study, expand
from kdbench.harness.study.plan import DONE, Plan, PlannedCell
from kdbench.harness.study.results import Results, make_results
from kdbench.harness.study.state import Place, State

STUDY: dict[str, Any] = {
    **{"title": "t", "suite": "mini-test", "seeds": (10,), "base": "plain", "method": "sft"},
    "rows": [{"label": "plain"}, {"label": "fast", "set": ["train.lr=0.1"]}],
}


def questions(path: Path, *said: str) -> Path:
    """A file with a question of each word."""
    path.write_text("".join(f'{{"instruction": "say {s}", "output": "{s}"}}\n' for s in said))
    return path


def planned(tasks: Sequence[str], *settings: str) -> tuple[Study, list[Cell]]:
    study = Study.model_validate({**STUDY, "tasks": tasks})
    cells = [
        cell.model_copy(update={"config": with_precision(cell.config, "fp32")})
        for cell in expand(study, settings)
    ]
    return study, cells


def answer(runs: Path, cells: Sequence[Cell]) -> None:
    """Evaluations of all that each cell asks, as a run stores them, and the summaries of their runs."""
    for level, cell in enumerate(cells):
        run = RunFolder(runs / f"sft-{cell.label}-{level:012x}")
        for task in tasks_of(cell.config.tasks):
            make = _read if task.kind == "lm-eval" else _drawn
            metric = "acc" if task.kind == "lm-eval" else "rouge_l"
            for record, scorer in make(cell.config, task):
                evaluation = run.evaluation(evaluation_key(record))
                evaluation.record.write(record)
                rows = [_row(i, record.seeds, metric, level) for i in range(PROMPTS)]
                evaluation.keep_scores(rows, {"scorer": scorer})
        card = {"id": run.id, "kind": "run", "method": "sft", "suite": "mini-test"} | {
            **{"regime": "matched", "teacher": TEACHER, "student": MODEL},
            **{"training_seed": 10, "division": "closed"},
        }
        run.summary.write(Summary(run=RunCard.model_validate(card), scores=summarised(run)))


def _row(number: int, seeds: Sequence[int], metric: str, level: int) -> ScoreRow:
    values = [level + 0.01 * (number % 7) for _ in seeds or [0]]
    return ScoreRow(
        doc_id=number,
        prompt_hash=f"{number:016x}",
        reference_tokens=5,
        seeds=list(seeds) or [0],
        metrics={metric: values},
    )


def _drawn(config: RunConfig, task: Asked) -> list[tuple[EvaluationRecord, str]]:
    edition = config.tasks.edition
    rows = examples_sha256(asked_rows(task.place, config)) if task.kind == "file" else "d" * 64
    asked: Any = SimpleNamespace(
        protocol=protocol_of(config),
        task=task.name,
        source="file" if task.kind == "file" else "kdbench",
        place=task.place,
        edition="file" if task.kind == "file" else edition,
        template=config.task_template,
        data_sha256=rows,
    )
    records = evaluation_records(config, asked, MODEL)
    return [(record, scored_as(record, config.tasks.rouge_tokenizer)) for record in records]


def _read(config: RunConfig, task: Asked) -> list[tuple[EvaluationRecord, str]]:
    folder = config.tasks.include_path
    assert folder is not None
    record = EvaluationRecord(
        task=task.name,
        source="lm-eval",
        edition="lm-eval",
        template="none",
        protocol=config.tasks.protocol,
        data_sha256="d" * 64,
        seeds=[],
        **model_facts(config, MODEL),
    )
    return [(record, scored_by(task.name, [Path(folder)]))]


def results(
    study: Study,
    cells: Sequence[Cell],
    tmp_path: Path,
    *,
    here: bool = True,
    settings: Sequence[str] = (),
) -> Results:
    runs = sorted((tmp_path / "runs").iterdir(), key=lambda run: run.name.rpartition("-")[2])
    plan = Plan(
        [
            PlannedCell(cell, State("cached", None, RunFolder(run)), DONE)
            for cell, run in zip(cells, runs, strict=True)
        ]
    )
    place = Place(tmp_path / "runs", Circumstances(tmp_path / "cache", "cpu", None))
    return make_results(study, plan, tmp_path / "out", [], place if here else None, settings)


def headings(found: Results) -> list[str]:
    table = found.data["table"]
    assert all(cell["effect"] for cell in table["cells"][1])
    return [f"{column['heading']} {column['metric']}" for column in table["columns"]]


@pytest.mark.parametrize("here", [True, False])
def test_whatever_a_study_asks_has_columns(tmp_path: Path, here: bool) -> None:
    own = f"own={questions(tmp_path / 'own.jsonl', 'a', 'b')}"
    (tmp_path / "theirs.yaml").write_text("task: theirs\n")
    folder = f"tasks.include_path={tmp_path}"
    study, cells = planned(["dolly", own, "theirs"], folder, "generate.greedy=true")
    answer(tmp_path / "runs", cells)
    if not here:  # the rows of a bundle are on the machine that made it
        (tmp_path / "own.jsonl").unlink()
    shown = headings(results(study, cells, tmp_path, here=here))
    assert shown == [
        "dolly[mini-test] strict rouge_l",
        "dolly[mini-test] strict-greedy rouge_l",
        "own[file] strict rouge_l",
        "own[file] strict-greedy rouge_l",
        "theirs[lm-eval] strict acc",
    ]
    assert (tmp_path / "out" / "differences.svg").is_file()


def test_answers_without_chance_have_columns(tmp_path: Path) -> None:
    study, cells = planned(["dolly"], "generate.temperature=0")
    answer(tmp_path / "runs", cells)
    assert headings(results(study, cells, tmp_path)) == ["dolly[mini-test] rouge_l"]


def test_what_is_not_asked_any_more_has_none(tmp_path: Path) -> None:
    own = f"own={questions(tmp_path / 'own.jsonl', 'a', 'b')}"
    for settings in (["generate.seeds=[10]"], ["generate.seeds=[10,20]"]):
        study, cells = planned([own], *settings)
        answer(tmp_path / "runs", cells)
        found = results(study, cells, tmp_path)
        assert headings(found) == ["own[file] rouge_l"]
        assert found.data["table"]["cells"][0][0]["value"]["decoding_seeds"] == [
            int(seed) for seed in settings[0].removeprefix("generate.seeds=")[1:-1].split(",")
        ]
    questions(tmp_path / "own.jsonl", "c", "d")
    answer(tmp_path / "runs", cells)
    assert headings(results(study, cells, tmp_path)) == ["own[file] rouge_l"]
    kept = [len(list(RunFolder(run).evaluations())) for run in (tmp_path / "runs").iterdir()]
    assert kept == [3, 3]


def test_a_table_names_its_models_and_settings(tmp_path: Path) -> None:
    settings = ("generate.temperature=0", "pair.student=/models/small")
    study, cells = planned(["dolly"], *settings)
    answer(tmp_path / "runs", cells)
    table = results(study, cells, tmp_path, settings=settings).data["table"]
    assert table["pair"] == "mini-test:teacher → small"
    assert table["settings"] == ["generate.temperature=0", "pair.student=small"]
    assert (
        " | pair: mini-test:teacher → small | settings: generate.temperature=0,"
        in table["signature"]
    )
