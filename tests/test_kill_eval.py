"""kill -9 in the middle of an evaluation, by the benchmark's own hand: nothing lost, little repeated."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "kill_eval.py"


def test_kills_of_eval_lose_nothing_and_repeat_at_most_the_chunk_in_flight(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARK, "--suite", "mini-test", "--kills", "3", "--chunk", "4"]
    command += ["--samples", "2", "--json"]
    environment = {**os.environ, "KDBENCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, found
    assert found["kills"] == 3
    # 8 prompts of two tasks by two seeds, and two exposure contexts of either model for dolly's
    assert found["answers"] == 8 * 2 * 2 + 8 * 2 * 2
    assert found["generated"] - found["evaluations"] * found["answers"] == found["repeated"]
    assert found["repeated"] <= 3 * 4 and found["lost"] == 0 and not found["different"]
