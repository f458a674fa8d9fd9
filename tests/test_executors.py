"""Ray and Slurm: real runs on a two-node Ray cluster and through submitit, with workers killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs

from kdbench.harness.errors import InputError
from kdbench.harness.study.executors import make_executor
from kdbench.harness.study.executors.worker import LOST

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STUDY = """
title: Two methods
suite: mini-test
tasks: [dolly]
seeds: [10]
set: [train.steps=40, train.save_every=4, "generate.seeds=[10]"]
base: plain
rows:
  - {label: plain, method: sft}
  - {label: taught, method: fkd}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def ablate(study: Path, executor: str, jobs: int) -> "runs.subprocess.Popen[str]":
    folder = study.parent
    return runs.start(
        *("ablate", str(study), "--runs-dir", str(folder / "runs"), "--out", str(folder / "out")),
        *("--device", "cpu", "--accept-drift", "--executor", executor, "--jobs", str(jobs)),
    )


def until(ready: Callable[[], object], process: "runs.subprocess.Popen[str]") -> Any:
    deadline = time.monotonic() + 500
    while True:
        found = ready()
        if found:
            return found
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "it never got there"
        time.sleep(0.01)


def training(study: Path, method: str) -> Path | None:
    """The folder of a run that is in the middle of its training."""
    for folder in (study.parent / "runs").glob(f"{method}-*"):
        if runs.lines(folder / "train" / "metrics.jsonl") >= 4:
            return folder
    return None


def finished(study: Path, said: str) -> None:
    for method in ("sft", "fkd"):
        (folder,) = (study.parent / "runs").glob(f"{method}-*")
        assert (folder / "manifest.json").is_file()
    assert "taught" in (study.parent / "out" / "table.md").read_text()
    assert "signature:" in said


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray", reason="the extra kdbench[ray] is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 otherwise: never gets a busy machine
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def test_ray_loses_a_node_and_no_run(study: Path, cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    driver = ablate(study, f"ray:address={cluster.address}", 2)
    until(lambda: training(study, "fkd") or training(study, "sft"), driver)
    cluster.remove_node(node, allow_graceful=False)
    said = driver.communicate(timeout=500)[0]
    assert driver.returncode == 0, said[-3000:]
    finished(study, said)


def test_submitit_calls_a_killed_job_finished_and_we_do_not(study: Path) -> None:
    pytest.importorskip("submitit", reason="the extra kdbench[slurm] is not installed")
    driver = ablate(study, "slurm:cluster=local,cpus_per_task=1", 1)
    until(lambda: training(study, "sft"), driver)
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    folder = str(study.parent).encode()
    for pid in pids:  # the job and the run inside it
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if folder in line and (b"submitit.core" in line or b"cli\0run" in line):
            os.kill(pid, signal.SIGKILL)
    said = driver.communicate(timeout=500)[0]
    assert driver.returncode == 0, said[-3000:]
    assert "starting it again" in said
    finished(study, said)


def test_submitit_gives_exit_codes(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="the extra kdbench[slurm] is not installed")
    executor = make_executor("slurm:cluster=local,cpus_per_task=1", 2, tmp_path)
    good = executor.start(["--version"], tmp_path / "good.log", 0)
    bad = executor.start(["show", str(tmp_path / "nothing")], tmp_path / "bad.log", 1)
    deadline = time.monotonic() + 200
    while None in (good.poll(), bad.poll()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (good.poll(), bad.poll()) == (0, 2)
    assert "kdbench" in (tmp_path / "good.log").read_text()
    stopped = executor.start(["doctor"], tmp_path / "stopped.log", 0)
    stopped.stop()
    while stopped.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert stopped.poll() in (LOST, -signal.SIGINT, 130)
    executor.close()


def test_slurm_without_slurm_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="the extra kdbench[slurm] is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="cannot be set up"):
        make_executor("slurm", 1, tmp_path)
    with pytest.raises(InputError, match="cannot be set up"):
        make_executor("slurm:cluster=local,colour=blue", 1, tmp_path)
