"""Scores of a task from a folder are made again when its code changes; lm-eval's own keep theirs."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import own_task
import pytest
from evaluations import RECORD

from kdbench.harness.evaluation import evaluate
from kdbench.harness.evaluation.names import Asked
from kdbench.harness.evaluation.scoring import scored_as
from kdbench.harness.files.records import EvaluationRecord
from kdbench.harness.lm.tasks import stock_identity
from kdbench.harness.lm.version import scored_by, scorer
from kdbench.harness.resolve import resolve
from kdbench.harness.study import answered


def record_of(task: str, place: Path) -> EvaluationRecord:
    of_task = {"task": task, "source": "lm-eval", "place": str(place), "edition": "lm-eval"}
    return EvaluationRecord.model_validate({**RECORD, **of_task, "template": "none"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task with code of its own."""
    place = tmp_path / "tasks"
    place.mkdir()
    own_task.write(place, "")
    (place / "utils.py").write_text("def process_results(doc, results):\n    return {'acc': 0}\n")
    return place


def test_code_and_settings_of_a_task_are_in_its_scorer(folder: Path, tmp_path: Path) -> None:
    record = record_of("own", folder)
    before = scored_as(record, task_files=str(folder))
    assert before.startswith(f"{scorer()}, files ")
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert scored_as(record, task_files=str(moved)) == before
    found = {before}
    for name in ("utils.py", "own.yaml"):
        (folder / name).write_text((folder / name).read_text() + "# mended\n")
        found.add(scored_as(record, task_files=str(folder)))
    assert len(found) == 3


def test_lm_evals_own_tasks_keep_their_scorer_beside_a_folder(folder: Path) -> None:
    assert scored_as(record_of("arc_easy", folder), task_files=str(folder)) == scorer()
    assert scored_by("arc_easy", [folder]) == scored_by("own", []) == scorer()


def test_a_study_sees_that_the_code_of_a_task_was_mended(folder: Path) -> None:
    record = record_of("own", folder)
    config = resolve(suite="mini-test", method="sft", assignments=[f"tasks.include_path={folder}"])
    info = {"scorer": scored_as(record, task_files=str(folder))}
    kept: Any = SimpleNamespace(scored=SimpleNamespace(info=lambda: info))
    task = Asked("own", "lm-eval")
    assert answered._scored(kept, record, task, config, None)
    (folder / "utils.py").write_text("def process_results(doc, results):\n    return {'acc': 1}\n")
    assert not answered._scored(kept, record, task, config, None)


def test_stored_scores_of_mended_code_are_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    def score(evaluation: Any, files: str | None, tokenizer: str) -> None:
        kept.append(scored_as(evaluation.record.read(), task_files=files))

    record = record_of("own", folder)
    evaluation: Any = SimpleNamespace(
        generated=SimpleNamespace(done=lambda: True),
        record=SimpleNamespace(sound=lambda say: True, read=lambda: record),
        scored_by=lambda scorer, say: kept[-1:] == [scorer],
    )
    session: Any = SimpleNamespace(progress=SimpleNamespace(say=print))
    monkeypatch.setattr(evaluate, "score", score)
    monkeypatch.setattr(evaluate, "settle", lambda marker: None)
    monkeypatch.setattr(evaluate, "rouge_tokenizer", lambda *_: "rouge")
    nothing: Any = None
    for number in (1, 1, 2):
        (folder / "utils.py").write_text(f"THRESHOLD = {number}\n")
        evaluate.generate_and_score(session, nothing, evaluation, record, nothing)
    assert len(kept) == 2


def test_code_of_a_task_is_in_its_identity(folder: Path, dataset_cache: None) -> None:
    before = stock_identity("own", include_paths=[folder])
    assert stock_identity("own", include_paths=[folder]) == before
    (folder / "utils.py").write_text("THRESHOLD = 2\n")
    assert stock_identity("own", include_paths=[folder]) != before
