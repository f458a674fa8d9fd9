"""Whole commands on two processes: the student is that of one, and what is paid for is asked once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
from endpoint_teacher import command
from judge_server import Action, JudgeServer, say

MINI = ["run", "--suite", "mini-test", "--method", "fkd", "--set", "tasks.limit=4", "--quiet"]
TWO = ("--nproc-per-node", "2", "--no-python")


def kdbench(arguments: list[str], world: int, **variables: str) -> str:
    """Runs a command on so many processes, in a fresh interpreter each; returns what it said."""
    launch = [sys.executable, "-m", "torch.distributed.run", *TWO] if world > 1 else []
    done = subprocess.run(
        [*launch, str(Path(sys.executable).parent / "kdbench"), *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def student(runs: Path) -> Path:
    (found,) = runs.glob("*/train/student/model.safetensors")
    return found


@pytest.mark.long
def test_adapters_on_a_base_in_half_precision(tmp_path: Path) -> None:
    """Layers hold a frozen bfloat16 base beside float32 adapters; sums differ in order, by roundings."""
    adapters = ["--set", "train.lora.r=4", "--set", "train.precision=bf16"]
    kdbench([*MINI, *adapters, "--runs-dir", str(tmp_path / "one")], world=1)
    shared = [*adapters, "--set", "parallel.shard=fsdp2"]
    kdbench([*MINI, *shared, "--runs-dir", str(tmp_path / "two")], world=2)
    assert ranks.gap(student(tmp_path / "one"), student(tmp_path / "two")) <= 1e-3


@pytest.mark.long
@pytest.mark.parametrize("method", ["seqkd", "plad"])
def test_a_teacher_behind_an_endpoint_is_asked_once(method: str, tmp_path: Path) -> None:
    def words(body: dict[str, object], number: int) -> Action:
        return say(" ".join(str(body["messages"]).split()[3:8]))

    asked = {}
    for world in (1, 2):
        runs, cache = tmp_path / f"runs-{world}", tmp_path / f"cache-{world}"
        with JudgeServer(words) as server:
            arguments = command(server.url, tmp_path, runs, method)
            kdbench(arguments, world, KDBENCH_CACHE=str(cache), OPENAI_API_KEY="sk-0123456789")
            asked[world] = server.distinct()
    assert asked[1] == asked[2] and set(asked[2].values()) == {1}
    assert ranks.gap(student(tmp_path / "runs-1"), student(tmp_path / "runs-2")) <= 1e-3
