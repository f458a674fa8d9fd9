"""Ray and Slurm: real runs on a two-node Ray cluster and through submitit, with workers killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
import slurm_here

from kdbench.harness.errors import InputError
from kdbench.harness.study.executors import make_executor, on_ray
from kdbench.harness.study.executors.worker import LOST, lost

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
    deadline = time.monotonic() + 1200
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
    import ray

    ray.shutdown()
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


def test_what_a_ray_cluster_has_not_is_a_sentence(cluster: Any, tmp_path: Path) -> None:
    import ray

    cluster.add_node(num_cpus=2, num_gpus=2, resources={"a100": 2})
    cluster.wait_for_nodes()
    where = f"ray:address={cluster.address}"
    for more, words in [
        ("gpus=3,cpus=1", "a node with 1 CPU, 3 GPU, but .* have: 1 CPU, 0 GPU; 2 CPU, 2 GPU"),
        ("nodes=2,cpus=1,gpus=1", "2 nodes with 1 CPU, 1 GPU each"),
        ("resource=h100,gpus=0", "1 h100"),
        ("gpus=1,processes=2", "takes a GPU of its own"),
        ("nodes=none", "whole number"),
    ]:
        with pytest.raises(InputError, match=words):
            make_executor(f"{where},{more}", 1, tmp_path, "auto")
        ray.shutdown()
    executor = make_executor(f"{where},resource=a100,processes=2", None, tmp_path, "auto")
    log = tmp_path / "log"
    assert executor.jobs == 1  # each process has a GPU, though none was asked for
    handle = executor.start(["--version"], log, 0)
    assert until_ended(handle) == 0 and log.read_text().count("kdbench ") == 2
    executor.close()


ENDLESS = """
import os, signal, time
def end(number, frame):
    print("ended by", number, flush=True)
    os._exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
print("begun", flush=True)
time.sleep(600)
"""


def test_what_is_stopped_on_ray_ends(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray blocks SIGINT in its processes, and its own way to interrupt one wakes no system call."""
    (tmp_path / "sitecustomize.py").write_text(ENDLESS)
    its = {"PYTHONPATH": str(tmp_path)}
    monkeypatch.setattr(on_ray, "shared_variables", lambda threads: its)
    executor = make_executor(f"ray:address={cluster.address}", 1, tmp_path, "cpu")
    log = tmp_path / "log"
    handle = executor.start([], log, 0)
    deadline = time.monotonic() + 200
    while not (log.exists() and "begun" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    handle.stop()
    code = until_ended(handle, 30)
    assert code is not None and lost(code)
    assert log.read_text().splitlines() == ["begun", f"ended by {signal.SIGTERM:d}"]
    executor.close()


def until_ended(handle: Any, seconds: float = 300) -> int | None:
    deadline = time.monotonic() + seconds
    while handle.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    code: int | None = handle.poll()
    return code


def table(folder: Path) -> dict[str, bytes]:
    """What a study ends in; logs have times in them."""
    files = [p for p in (folder / "out").iterdir() if p.is_file() and p.suffix != ".png"]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.long
def test_ray_loses_a_node_with_cells_of_two_processes(tmp_path: Path, cluster: Any) -> None:
    """The table is that of the same cells on this machine, where nothing was lost."""
    folders = [tmp_path / name for name in ("ray", "local")]
    studies = []
    for folder in folders:
        folder.mkdir()
        studies.append(folder / "study.yaml")
        studies[-1].write_text(STUDY)
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    driver = ablate(studies[0], f"ray:address={cluster.address},processes=2", 1)
    until(lambda: training(studies[0], "sft") or training(studies[0], "fkd"), driver)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    said = driver.communicate(timeout=2400)[0]
    assert driver.returncode == 0, said[-3000:]
    assert "starting it again" in said, said
    finished(studies[0], said)
    local = ablate(studies[1], "local:processes=2", 1)
    said = local.communicate(timeout=2400)[0]
    assert local.returncode == 0, said[-3000:]
    assert table(folders[0]) == table(folders[1])
    for method in ("sft", "fkd"):
        (one,), (other,) = (list((f / "runs").glob(f"{method}-*")) for f in folders)
        assert runs.results(one) == runs.results(other)


@pytest.mark.long
def test_a_run_on_two_nodes_of_ray(tmp_path: Path, cluster: Any) -> None:
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    executor = make_executor(f"ray:address={cluster.address},nodes=2", None, tmp_path, "cpu")
    assert executor.jobs == 1
    log = tmp_path / "log"
    handle = executor.start([*TRAIN, "--runs-dir", str(tmp_path / "runs")], log, 0)
    assert until_ended(handle) == 0, log.read_text()
    bad = executor.start(["show", str(tmp_path / "nothing")], tmp_path / "bad.log", 0)
    assert until_ended(bad) == 2, (tmp_path / "bad.log").read_text()
    executor.close()
    assert list((tmp_path / "runs").glob("sft-*/train/student/model.safetensors"))
    assert (tmp_path / "log.node1").exists()


TRAIN = ["train", "--method", "sft", "--suite", "mini-test", "--device", "cpu", "--accept-drift"]
LAUNCH = [sys.executable, "-m", "kdbench.harness.study.executors.ranks"]


def test_processes_of_a_run_end_together_and_say_why(tmp_path: Path) -> None:
    """A mistake keeps its code, a killed process is one; nothing is left of the others."""
    done = subprocess.run(
        [*LAUNCH, "--processes", "2", "--", "show", "nothing"], capture_output=True
    )
    assert done.returncode == 2, done.stderr[-2000:]
    place = ["--runs-dir", str(tmp_path / "runs"), "--set", "train.steps=4000"]
    for victim in ("rank", "launcher"):
        process = subprocess.Popen(
            [*LAUNCH, "--processes", "2", "--", *TRAIN, *place],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        rows = lambda: list((tmp_path / "runs").glob("*/train/metrics.jsonl"))  # noqa: E731
        deadline = time.monotonic() + 300
        while not any(runs.lines(path) > 2 for path in rows()) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        mine = ranks_of(process.pid)
        assert len(mine) == 2
        os.kill(mine[1] if victim == "rank" else process.pid, signal.SIGKILL)
        assert process.wait(timeout=120) == (137 if victim == "rank" else -signal.SIGKILL)
        while any(Path(f"/proc/{pid}").exists() for pid in mine) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in mine)
        for path in rows():
            path.unlink()


def ranks_of(launcher: int) -> list[int]:
    """Processes that a launcher started."""
    text = Path(f"/proc/{launcher}/task/{launcher}/children").read_text()
    children = [int(word) for word in text.split()]
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid in children if b"--as-rank" in lines[pid]]


def test_a_slurm_job_of_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch, srun and sacct are of this machine; submitit, its script and the meeting are real."""
    pytest.importorskip("submitit", reason="the extra kdbench[slurm] is not installed")
    slurm_here.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    more = "nodes=2,gpus=1,cpus_per_task=1,slurm_partition=big"
    executor = make_executor(f"slurm:{more}", 2, tmp_path)
    log = tmp_path / "log"
    handle = executor.start([*TRAIN, "--runs-dir", str(tmp_path / "runs")], log, 0)
    assert until_ended(handle) == 0, log.read_text()
    (script,) = (tmp_path / "bin").glob("*.sh")
    said = script.read_text()
    for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=1", "partition=big"):
        assert f"#SBATCH --{line}\n" in said, said
    assert "--kill-on-bad-exit=1" in said
    assert list((tmp_path / "runs").glob("sft-*/train/student/model.safetensors"))
    assert (tmp_path / "log.node1").exists()


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ("mem_gb=0.5", ["#SBATCH --mem=512MB"]),
        ("gpus=8", ["--cpus-per-task=32\n", "--mem=128GB\n", "--time=1440\n"]),
        ("nodes=2,processes=2", ["--cpus-per-task=8\n", "--mem=32GB\n"]),
        ("gpus=2,cpus_per_task=3", ["--cpus-per-task=3\n", "--mem=32GB\n"]),
        ("mem_gb=1.5,slurm_time=10:00:00", ["#SBATCH --mem=1536MB", "#SBATCH --time=10:00:00"]),
        ("slurm_account=0123,slurm_exclusive=true", ["--account=0123", "#SBATCH --exclusive\n"]),
        ("slurm_setup=[module load cuda,export A=1]", ["module load cuda\nexport A=1\n"]),
        ("slurm_setup=export A=1", ["# setup\nexport A=1\n"]),
        ("slurm_comment='a, b',slurm_qos=low", ["--comment='a, b'\n", "--qos=low\n"]),
        ("slurm_constraint=[a|b],slurm_nodelist=n[1,3]", ["'[a|b]'\n", "'n[1,3]'\n"]),
        ("slurm_additional_parameters={mail-type: 'END,FAIL'}", ["--mail-type=END,FAIL\n"]),
        ("slurm_use_srun=False", ["export SUBMITIT_EXECUTOR=slurm\n/"]),
        ("nodes=2,slurm_srun_args=[--mpi=none]", ["--mpi=none --kill-on-bad-exit=1 "]),
    ],
)
def test_settings_of_a_slurm_job(
    settings: str, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read as --set reads values; what sbatch would get is in submitit's own script."""
    pytest.importorskip("submitit", reason="the extra kdbench[slurm] is not installed")
    slurm_here.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    executor: Any = make_executor(f"slurm:{settings}", 1, tmp_path)
    script = executor._executor._executor._make_submission_file_text("/python", "uid")
    for line in lines:
        assert line in script, script


def test_a_slurm_setting_of_another_type_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the extra kdbench[slurm] is not installed")
    slurm_here.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for settings, words in [
        ("timeout_min=2h", "cannot be set up: Parameter .timeout_min. expected type"),
        ("mem_gb=much", "cannot be set up: Parameter .mem_gb. expected"),
        ("cpus_per_task=half", "cannot be set up"),
        ("slurm_additional_parameters=END", "cannot be set up"),
        ("slurm_comment='a", "slurm_comment='a.*not valid YAML"),
        ("nodes=2,slurm_use_srun=false", "needs srun"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            make_executor(f"slurm:{settings}", 1, tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("cluster=local,nodes=2", "needs Slurm"),
        ("ntasks_per_node=2", "leave ntasks_per_node out and set processes"),
        ("gpus=1,processes=2", "takes a GPU of its own"),
    ],
)
def test_what_a_slurm_job_cannot_be_is_a_sentence(
    settings: str, words: str, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="the extra kdbench[slurm] is not installed")
    with pytest.raises(InputError, match=words):
        make_executor(f"slurm:{settings}", 1, tmp_path)


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
