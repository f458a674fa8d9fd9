"""Trainings on several processes of this machine, and what came out of them beside one process's."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import tiny
import torch
import zoo
from safetensors.torch import load_file

from kdbench.trainers.loop import Loop
from kdbench.trainers.parallel.settings import Parallel

SHARDED = {"shard": "fsdp2", "teacher": "sharded", "checkpoint_activations": True}
STEPS, SAVED = 6, 2
HERE = Path(__file__).parent


def build(name: str, out: Path, parallel: dict[str, object], family: str, tied: bool) -> Loop:
    """Six steps of a method in float64, teacher and samples too: what is left is the order of sums."""
    return tiny.loop(
        zoo.made(name),
        student=tiny.model(family, seed=1, tied=tied),
        teacher=tiny.model(family, seed=2, tied=tied, width=48, layers=3).double(),
        out=out,
        dtype=torch.float64,
        precision="fp64",
        steps=STEPS,
        save_every=SAVED,
        parallel=Parallel.model_validate(parallel),
    )


def work(job: dict[str, object]) -> None:
    """Trains each method of a job; ``dies`` says which process is killed before which step."""
    for name in job["names"]:
        out = Path(str(job["out"])) / name
        out.mkdir(parents=True, exist_ok=True)
        loop = build(name, out, job["parallel"], str(job["family"]), bool(job["tied"]))
        step = loop._step

        def mortal() -> None:
            if [int(os.environ["RANK"]), loop.state.step] == job.get("dies"):  # noqa: B023
                os.kill(os.getpid(), signal.SIGKILL)
            step()  # noqa: B023

        loop._step = mortal
        loop.run()
    torch.distributed.destroy_process_group()


def main() -> None:
    """A worker of `trained`."""
    work(json.loads(sys.argv[1]))


def trained(
    out: Path,
    names: list[str],
    *,
    world: int,
    parallel: dict[str, object] | None = None,
    family: str = "llama",
    tied: bool = True,
    dies: tuple[int, int] | None = None,
    seconds: float = 600.0,
) -> list[int]:
    """Exit codes of ``world`` processes that trained methods together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    shared = {**os.environ, **place, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    job = {"out": str(out), "names": names, "family": family, "tied": tied, "dies": dies}
    text = json.dumps({**job, "parallel": SHARDED if parallel is None else parallel})
    code = f"import sys; sys.path[:0] = [{str(HERE)!r}]; import ranks; ranks.main()"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, text],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        said = [worker.communicate(timeout=seconds)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    codes = [worker.returncode for worker in workers]
    assert dies is not None or not any(codes), "\n".join(said)[-3000:]
    return codes


def student(out: Path, name: str) -> Path:
    """Weights of the exported student."""
    return out / name / "student" / "model.safetensors"


def gap(one: Path, other: Path) -> float:
    """Largest difference of two files of weights."""
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
