"""kdbench tune killed at random ends with the table of one that was not; every method had equal trials."""

import json
import time
from pathlib import Path

import fakes
import numpy as np
import pytest
import runs

from kdbench.harness import cli

TABLES = ("trials.json", "trials.csv", "trials.md", "winners.yaml")
TUNE = (
    *("tune", "--methods", "sft,fkd", "--trials", "2:0.5", "--suite", "mini-test", "--seeds", "10"),
    *("--set", "train.select=max:dev_rouge_l", "--set", "train.response_tokens=null"),
    *("--set", "train.steps=8", "--set", "train.eval_every=4", "--quiet", "--runs-dir"),
)


def tables(place: Path) -> dict[str, bytes]:
    return {name: (place / "tuning" / "mini-test" / name).read_bytes() for name in TABLES}


@pytest.mark.long
def test_tune_killed_ten_times_at_random_ends_with_the_same_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    began = time.monotonic()
    runs.finish(*TUNE, str(tmp_path / "whole" / "runs"))
    took = time.monotonic() - began
    killed = tmp_path / "killed"
    for _ in range(10):
        process = runs.start(*TUNE, str(killed / "runs"))
        until = time.monotonic() + float(rng.uniform(0, took / 2))
        runs.kill_when(process, lambda until=until: time.monotonic() > until)  # type: ignore[misc]
    runs.finish(*TUNE, str(killed / "runs"))
    assert tables(killed) == tables(tmp_path / "whole")
    for run in (tmp_path / "whole" / "runs").iterdir():
        assert runs.results(killed / "runs" / run.name) == runs.results(run)
    winners = [run for run in (killed / "runs").glob("*-mini-test-*") if searched(run)]
    assert len(winners) == 2
    assert cli._run(["check", *map(str, winners)]) == 0
    fakes.edit(winners[0] / "config.json", {"tuning.trials": 1})
    assert cli._run(["check", *map(str, winners)]) == 3


def searched(run: Path) -> bool:
    """Whether a run says that a search found its settings."""
    tuning = json.loads((run / "config.json").read_text()).get("tuning") or {}
    return tuning.get("by") == "search"
