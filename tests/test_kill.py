"""kill -9 in the middle of training and of generation: the same command gives the same bytes."""

from pathlib import Path

import pytest
import runs

METHODS = ["sft", "fkd", "seqkd", "minillm", "minillm-code", "dpkd", "dpkd-token"]


@pytest.mark.parametrize("method", METHODS)
def test_killed_run_continues_to_the_same_bytes(method: str, tmp_path: Path) -> None:
    def command(folder: str) -> list[str]:
        return [
            *("run", "--suite", "mini-test", "--method", method, "--tasks", "dolly"),
            *("--set", "train.save_every=4", "--runs-dir", str(tmp_path / folder)),
        ]

    runs.finish(*command("whole"))
    (whole,) = (tmp_path / "whole").glob(f"{method}-mini-test-student-*")
    killed = tmp_path / "killed" / whole.name

    process = runs.start(*command("killed"))
    metrics = killed / "train" / "metrics.jsonl"
    assert runs.kill_when(process, lambda: runs.lines(metrics) >= 8), "ended before the kill"
    process = runs.start(*command("killed"))
    assert runs.kill_when(process, lambda: any(killed.glob("eval/*/samples.*"))), (
        "ended before the kill"
    )
    runs.finish(*command("killed"))

    expected = runs.results(whole)
    assert any(name.endswith(".safetensors") for name in expected)
    assert sum("samples." in name for name in expected) == 2
    assert runs.results(killed) == expected
