"""What a training leaves on disk: the student; and what it keeps to go on from until that stands."""

from pathlib import Path

import pytest
import torch

from kdbench.harness.cli import _run
from kdbench.harness.files.run_folder import RunFolder, Training
from kdbench.harness.files.stages import Stage
from kdbench.harness.runner import training
from kdbench.trainers import checkpoint
from kdbench.trainers.types import Sequence

TRAIN = ("train", "--suite", "mini-test", "--method", "sft", "--quiet", "--runs-dir")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A training in one go."""
    return trained(tmp_path_factory.mktemp("whole"))


def trained(runs: Path, *more: str) -> RunFolder:
    assert _run([*TRAIN, str(runs), *more]) == 0
    (run,) = runs.glob("sft-*")
    return RunFolder(run)


def weights(run: RunFolder) -> bytes:
    return (run.training.student / "model.safetensors").read_bytes()


def test_only_student_and_log_are_kept(whole: RunFolder) -> None:
    names = sorted(path.name for path in whole.training.path.iterdir())
    assert names == ["metrics.jsonl", "student", "train.done"]
    assert whole.training.settled()


def test_a_kill_between_student_and_marker_goes_on_from_the_checkpoint(
    whole: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def killed(stage: Stage, *_: object) -> None:
        if "sft-" in str(stage.folder):
            raise Killed
        mark(stage, *_)

    mark = Stage.mark
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Stage, "mark", killed)
        trained(tmp_path)
    (folder,) = tmp_path.glob("sft-*")
    left = RunFolder(folder).training
    assert left.student.is_dir() and not left.stage.done()
    assert list((left.path / "checkpoints").glob("step-*"))
    log = left.log_file.read_bytes()

    prepare = RunFolder(folder).prepare
    before = prepare.read()
    assert before.init is not None and before.teacher is not None and not before.notes
    others = {
        name: model.model_copy(update={"fingerprint": "0" * 64})
        for name, model in (("init", before.init), ("teacher", before.teacher))
    }  # as if it had begun in another cache; SFT asks no teacher
    prepare.write(before.model_copy(update=others))
    assert _run([*TRAIN, str(tmp_path)]) == 2
    changed = f"init 00000000 -> {before.init.fingerprint[:8]}"
    said = capsys.readouterr().err
    assert f"began with another init ({changed}): " in said and "--accept-drift" in said
    run = trained(tmp_path, "--accept-drift")
    assert run.prepare.read() == before.model_copy(update={"notes": [changed]})
    assert run.manifest.read().drift == [changed]
    assert weights(run) == weights(whole)
    assert run.training.settled()
    assert run.training.log_file.read_bytes() == log  # no step was made again


def test_a_kill_while_checkpoints_go_is_cleared_away_by_the_next_call(
    whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "drop_checkpoints", killed)
        trained(tmp_path)
    (folder,) = tmp_path.glob("sft-*")
    left = Training(folder / "train")
    assert left.stage.done() and not left.settled()
    marker = left.stage.marker()
    with monkeypatch.context() as patch:
        patch.setattr(training, "_run", killed)  # a finished training is not repeated
        run = trained(tmp_path)
    assert run.training.settled()
    assert run.training.stage.marker() == marker
    assert weights(run) == weights(whole)


def test_half_of_a_dropped_checkpoint_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **_: object) -> None:
        raise Killed

    folder = tmp_path / "checkpoints"
    checkpoint.write_state(folder / "step-00000002", {"x": torch.ones(1)})
    assert checkpoint.saved(folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("shutil.rmtree", killed)
        checkpoint.drop_checkpoints(tmp_path)
    assert folder.exists() and not checkpoint.saved(folder)


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    columns = {"log_q": torch.rand(3), "gap": torch.zeros(3)}
    short = {name: column[:1] for name, column in columns.items()}
    rows = [Sequence((1, 2), (3, 4, 1), 7, columns), Sequence((), (5,), 8, short)]
    state = {
        "rows": rows,
        "none": [],
        "numbers": [1, 0.1, None, "text", True],
        "deep": {"weight": torch.rand(2, 3), "copies": [{"bias": torch.ones(2)}]},
    }
    checkpoint.write_state(tmp_path / "state", state)
    found = checkpoint.read_state(tmp_path / "state")
    assert found["numbers"] == state["numbers"] and found["none"] == []
    assert torch.equal(found["deep"]["weight"], state["deep"]["weight"])
    assert torch.equal(found["deep"]["copies"][0]["bias"], torch.ones(2))
    for one, other in zip(rows, found["rows"], strict=True):
        assert (one.prompt, one.response, one.key) == (other.prompt, other.response, other.key)
        assert all(torch.equal(column, other.columns[n]) for n, column in one.columns.items())
