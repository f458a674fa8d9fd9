"""kill -9 in the middle of training and of generation: the same command gives the same bytes."""

from pathlib import Path

import forks
import pytest
import runs

from kdbench.harness.own_methods import METHODS

MINI = ("run", "--suite", "mini-test", "--tasks", "dolly", "--set", "train.save_every=4")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_killed_run_of_every_method_continues_to_the_same_bytes(
    method: str, tmp_path: Path
) -> None:
    command = (*MINI, "--method", method, "--runs-dir")
    forks.finish(*command, tmp_path / "whole")
    (whole,) = (tmp_path / "whole").glob(f"{method}-mini-test-student-*")
    killed = tmp_path / "killed" / whole.name
    metrics = killed / "train" / "metrics.jsonl"

    for done in (
        lambda: runs.lines(metrics) >= 8,
        lambda: runs.lines(metrics) >= 16,
        lambda: any(killed.glob("eval/*/samples.*")),
    ):
        process = forks.start(*command, tmp_path / "killed")
        assert forks.kill_when(process, done), "ended before the kill"
    forks.finish(*command, tmp_path / "killed")
    same(whole, killed)


def test_killed_command_line_continues_to_the_same_bytes(tmp_path: Path) -> None:
    command = (*MINI, "--method", "dpkd", "--runs-dir")
    runs.finish(*command, str(tmp_path / "whole"))
    (whole,) = (tmp_path / "whole").glob("dpkd-mini-test-student-*")
    killed = tmp_path / "killed" / whole.name
    for done in (
        lambda: runs.lines(killed / "train" / "metrics.jsonl") >= 8,
        lambda: (killed / "train" / "student").is_dir(),  # not marked, or checkpoints still there
        lambda: any(killed.glob("eval/*/samples.*")),
    ):
        process = runs.start(*command, str(tmp_path / "killed"))
        assert runs.kill_when(process, done), "ended before the kill"
    runs.finish(*command, str(tmp_path / "killed"))
    same(whole, killed)
    assert not list(killed.glob("train/checkpoints"))  # optimiser state goes with the student


def same(whole: Path, killed: Path) -> None:
    """Fails unless weights, samples and scores are there and equal."""
    expected = runs.results(whole)
    assert any(name.endswith(".safetensors") for name in expected)
    assert sum("samples." in name for name in expected) == 2
    assert runs.results(killed) == expected
