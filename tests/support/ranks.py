"""Trainings on several processes of this machine, and what came out of them beside one process's."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import tiny
import torch
import zoo
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import PreTrainedModel

from kdbench.harness.errors import InputError
from kdbench.trainers.loop import Loop
from kdbench.trainers.lora.adapters import Base
from kdbench.trainers.lora.settings import Lora
from kdbench.trainers.parallel import shards
from kdbench.trainers.parallel.loading import Unread, find_unread, read_shares
from kdbench.trainers.parallel.ranks import together
from kdbench.trainers.parallel.settings import Parallel
from kdbench.trainers.parallel.sharding import share_frozen

SHARDED = {"shard": "fsdp2", "teacher": "sharded", "checkpoint_activations": True}
STEPS, SAVED = 6, 2
ADAPTERS = "+lora"
HERE = Path(__file__).parent


def models(family: str, tied: bool) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Student and teacher."""
    student = tiny.model(family, seed=1, tied=tied)
    return student, tiny.model(family, seed=2, tied=tied, width=48, layers=3)


def build(
    name: str, out: Path, parallel: dict[str, object], family: str, tied: bool, folder: str = ""
) -> Loop:
    """Six steps of a method in float64, teacher and samples too: what is left is the order of sums.

    With a folder, shared models are read from there by shares. Of a name that ends in ``ADAPTERS`` adapters
    are trained, whose rank two processes cannot share evenly.
    """
    student, teacher = models(family, tied)
    base = Base(load=lambda: models(family, tied)[0], name="")
    found: list[Unread] = []
    if folder and parallel:
        read = [
            find_unread(f"{folder}/{who}", dtype=torch.float32) for who in ("student", "teacher")
        ]
        found = [each for each in read if each is not None]
        student, teacher = (each.model for each in found)
    return tiny.loop(
        zoo.made(name.removesuffix(ADAPTERS)),
        lora=Lora(r=3) if name.endswith(ADAPTERS) else None,
        base=base,
        student=student,
        teacher=teacher.double(),
        unread=found,
        out=out,
        dtype=torch.float64,
        precision="fp64",
        steps=STEPS,
        save_every=SAVED,
        parallel=Parallel.model_validate(parallel),
    )


def work(job: dict[str, object]) -> None:
    """Trains each method of a job; ``dies`` says which process is killed before which step.

    A process that ``full`` names cannot write more than some bytes into a file.
    """
    rank = int(os.environ["RANK"])
    shards.FILE_BYTES = 20_000  # several files each
    if rank == job.get("full"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    said = {who: refusal(folder) for who, folder in job["refused"].items()}
    if said:
        (Path(str(job["out"])) / f"said-{os.environ['RANK']}.json").write_text(json.dumps(said))
    for name in job["names"]:
        out = Path(str(job["out"])) / name
        out.mkdir(parents=True, exist_ok=True)
        folder = str(job["out"]) + "/models"
        loop = build(name, out, job["parallel"], str(job["family"]), bool(job["tied"]), folder)
        step = loop._step

        def mortal() -> None:
            if [rank, loop.state.step] == job.get("dies"):  # noqa: B023
                os.kill(os.getpid(), signal.SIGKILL)
            step()  # noqa: B023

        loop._step = mortal
        try:
            loop.run()
        except InputError as error:
            sys.exit(str(error))
    torch.distributed.destroy_process_group()


def refusal(folders: list[str]) -> str:
    """What this process says of a folder, each process of its own."""
    Accelerator(cpu=True)
    mine = folders[int(os.environ["RANK"])]
    try:
        found = together(lambda: find_unread(mine, dtype=torch.float32))
        assert found is not None
        share_frozen(found.model, torch.device("cpu"))
        read_shares([found])
    except InputError as error:
        return str(error)
    return ""


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
    refused: dict[str, list[str]] | None = None,
    full: int | None = None,
    seconds: float = 600.0,
) -> list[int]:
    """Exit codes of ``world`` processes that trained methods together, shared models read by shares.

    ``full`` is a process that cannot write; ``refused`` names folders, one a process; what each says of
    its own then lies in ``said-RANK.json``.
    """
    for who, model in zip(("student", "teacher"), models(family, tied), strict=True):
        if not (place := out / "models" / who).exists():
            model.save_pretrained(place, max_shard_size="40KB")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    shared = {**os.environ, **place, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    job = {"out": str(out), "names": names, "family": family, "tied": tied, "dies": dies}
    job |= {"refused": refused or {}, "full": full}
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
    assert dies is not None or full is not None or not any(codes), "\n".join(said)[-3000:]
    for rank, text in enumerate(said):
        (out / f"ended-{rank}.txt").write_text(text)
    return codes


def student(out: Path, name: str) -> Path:
    """Weights of the exported student."""
    return out / name / "student" / "model.safetensors"


def gap(one: Path, other: Path) -> float:
    """Largest difference of two files of weights."""
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
