"""What a run cost is read from its markers: kills lose nothing of it and double nothing."""

from pathlib import Path

import pytest
import torch
import zoo

from kdbench.harness.files.costs import Spent, costs_of, settle
from kdbench.harness.files.records import CostRow, StageCost, VerdictRow
from kdbench.harness.files.run_folder import JudgeFolder, RunFolder
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import append_rows, read_records
from kdbench.harness.judge.budget import settle_recorded
from kdbench.harness.judge.definition import load_judge
from kdbench.harness.judge.verdict_log import VerdictLog
from kdbench.trainers.devices import forget_peak
from kdbench.trainers.loop import Loop


def test_a_stage_costs_what_all_its_processes_spent(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "generate")
    killed = Spent(stage, lambda: 7.0)
    killed.lap()
    killed.lap()
    (stored,) = tmp_path.iterdir()
    last = Spent(stage, lambda: 5.0)
    settle(stage)  # not done yet
    info = last.info()
    assert info["peak_mb"] == 7.0
    earlier = sum(row.wall_s for row in read_records(stored, StageCost))
    assert info["wall_s"] > earlier > 0
    stage.mark(info=info)
    settle(stage)
    assert [path.name for path in tmp_path.iterdir()] == ["generate.done"]


def test_costs_are_those_of_the_markers(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    spent = {"wall_s": 2.0, "peak_mb": 5.0}
    assert costs_of(run) == {}
    (tmp_path / "train").mkdir()
    run.training.stage.mark(info={**spent, "tokens": {"student": 9}})
    for key, sampled in (("dolly@0", 30), ("vicuna@0", 12)):
        evaluation = run.evaluation(key)
        evaluation.path.mkdir(parents=True)
        evaluation.generated.mark(info={**spent, "sampled": sampled, "counts": {}})
        evaluation.keep_probe("exposure", {}, {**spent, "settings": {}})
        evaluation.keep_probe("text", {}, {"scorer": "1"})  # costs nothing worth saying
    evaluation = run.evaluation("cls@0")
    evaluation.path.mkdir()
    evaluation.keep_scores([], {**spent, "scorer": "1"})
    found = {
        stage: (cost.wall_s, cost.tokens, cost.peak_mb) for stage, cost in costs_of(run).items()
    }
    assert found == {
        "train": (2.0, {"student": 9}, 5.0),
        "generate": (4.0, {"sampled": 42}, 5.0),
        "choices": (2.0, {}, 5.0),
        "probe-exposure": (4.0, {}, 5.0),
    }


@pytest.mark.parametrize("name", ["seqkd", "distillm2"])
def test_teacher_answers_cost_the_same_whoever_sampled_them(name: str, tmp_path: Path) -> None:
    settings = {"steps": 4, "save_every": 2}

    def build(folder: str) -> Loop:
        return zoo.build(name, tmp_path / folder, **settings)

    whole = build("whole").run()
    assert whole.tokens["teacher_answers"] > 0
    first = build("parts")
    for _ in range(3):  # one step further than the checkpoint, as a kill would leave it
        first._step()
    parts = build("parts").run()  # finds in the file what was answered after the checkpoint
    assert parts.tokens == whole.tokens
    assert parts.wall_s > first.state.wall_s  # the lost step was paid


VERDICT = {"state": "ok", "score": 7.0, "doc_id": 1, "prompt_hash": "", "seed": 1, "model": "m"}
VERDICT |= {"subject": "model", "status": 200, "body": "{}"}


@pytest.mark.parametrize(
    ("before", "answers", "after"),
    [
        # the answer is recorded, its settlement was not
        ([("a", "reserved", 1000)], [("a", 100)], 100),
        # a question that was in flight: it may have been billed
        ([("a", "reserved", 1000)], [], 1000),
        # settled, and in flight again when its answer was asked for anew
        (
            [("a", "reserved", 1000), ("a", "settled", -900), ("a", "reserved", 1000)],
            [("a", 100)],
            1100,
        ),
    ],
)
def test_a_recorded_answer_is_settled_after_a_kill(
    before: list[tuple[str, str, int]], answers: list[tuple[str, int]], after: int, tmp_path: Path
) -> None:
    judge, folder = load_judge("pointwise", [], {}), JudgeFolder(tmp_path)
    rows = [{"key": k, "event": e, "prompt_tokens": n, "amount": n * 2e-6} for k, e, n in before]
    append_rows(folder.costs, rows)
    said = [{**VERDICT, "key": k, "prompt_tokens": n, "completion_tokens": 0} for k, n in answers]
    append_rows(folder.verdicts, [VerdictRow.model_validate(row) for row in said])
    for _ in range(2):  # once settled it stays
        log = VerdictLog(folder)
        settle_recorded(judge, log)
        assert (log.prompt_tokens, log.spent) == (after, pytest.approx(after * 2e-6))
        assert sum(row.prompt_tokens for row in read_records(folder.costs, CostRow)) == after


def test_a_peak_of_a_device_is_of_one_training(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    for kind in ("cpu", "cuda"):
        forget_peak(torch.device(kind))
    assert forgotten == [torch.device("cuda")]
