"""Trackers are told of a training when they are asked for, and of nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker

Kdbench = Callable[..., tuple[int, str, str]]
RUN = ("run", "--suite", "mini-test", "--method", "sft", "--tasks", "dolly", "--lr", "0.02")


class Notebook(GeneralTracker):
    """A real tracker of accelerate's, which keeps what it is told; it fails when it is told to."""

    name = "notebook"
    requires_logging_directory = False
    made: ClassVar[list["Notebook"]] = []
    fails = False

    def __init__(self, run_name: str, **kwargs: Any) -> None:
        super().__init__()
        self.project, self.rows, self.finished = run_name, [], False
        self.config: dict[str, Any] = {}
        self.made.append(self)

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if self.fails:
            raise OSError("no route to host")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> type[Notebook]:
    monkeypatch.setattr(Notebook, "made", [])
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    return Notebook


def test_a_tracker_is_told_of_the_student_only(
    tmp_path: Path, kdbench: Kdbench, notebook: type[Notebook]
) -> None:
    place = ("--runs-dir", tmp_path / "runs")
    assert kdbench(*RUN, *place, "--seed", 3)[0] == 0
    assert notebook.made == []  # nobody asked
    code, _, err = kdbench(*RUN, *place, "--track", "notebook")
    assert code == 0, err
    training, scored = notebook.made
    assert training.project == "kdbench-mini-test" and training.config["train.lr"] == 0.02
    steps = [step for step, _ in training.rows]
    assert steps == list(range(1, 21)) and training.finished
    first, last = training.rows[0][1], training.rows[-1][1]
    assert first["train/loss"] > last["train/loss"] and "dev/dev_loss" in last
    assert next(sorted(values) for _, values in scored.rows)[0].startswith("scores/dolly/")


def test_a_tracker_that_fails_ends_its_own_lines_only(
    tmp_path: Path, kdbench: Kdbench, notebook: type[Notebook], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "fails", True)
    place = ("--runs-dir", tmp_path / "runs")
    code, _, err = kdbench(*RUN, *place, "--track", "notebook")
    assert code == 0 and err.count("tracker notebook failed and is left out") == 2
    code, _, err = kdbench(*RUN, *place, "--track", "notbook")
    assert code == 2 and "did you mean notebook" in err


def test_tensorboard_has_the_curves(tmp_path: Path, kdbench: Kdbench) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, err = kdbench(*RUN, "--runs-dir", tmp_path / "runs", "--track", "tensorboard")
    assert code == 0, err
    (run,) = (tmp_path / "runs").glob("sft-*")
    found = EventAccumulator(str(tmp_path / "tracking" / run.name))
    found.Reload()
    assert {"train/loss", "train/lr"} <= set(found.Tags()["scalars"])
    assert len(found.Scalars("train/loss")) == 20
