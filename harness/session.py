"""What all stages of one command share: the request, the device, where shared results are kept."""

import atexit
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, gather_object

from kdbench.harness import launch
from kdbench.harness.config import Request, RunConfig, TrainConfig, with_precision
from kdbench.harness.contents import Circumstances
from kdbench.harness.errors import InputError
from kdbench.harness.files.costs import Spent
from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import make_folder, write_text
from kdbench.harness.progress import Progress
from kdbench.trainers.devices import peak_memory_mb, resolve_precision, sampling_dtype
from kdbench.trainers.parallel.ranks import PATIENCE, of_main
from kdbench.trainers.vllm.engine import check_dtype
from kdbench.trainers.vllm.process import check_installed

MIXED = {"fp32": "no", "bf16": "bf16", "fp64": "no"}

Made = TypeVar("Made")


@dataclass(slots=True)
class Session:
    """One command.

    Attributes:
        request: as resolved by the verb.
        config: its run, with precision resolved for this machine.
        progress: lines for a person to read.
        flights: preflights so far: of what, and what was found; a person was told of the first
            ``told``.
        compared: what was found when another engine's first answers were compared with ours.
        meanwhile: looks after a process that works beside this one; called between optimiser steps.
    """

    request: Request
    config: RunConfig
    progress: Progress
    flights: list[tuple[str, Any]] = field(default_factory=list)
    told: int = 0
    compared: list[str] = field(default_factory=list)
    meanwhile: Callable[[], None] | None = None
    _accelerator: Accelerator | None = None

    def accelerator(self, training: TrainConfig | None = None) -> Accelerator:
        """The accelerator of this process, in a training's precision if one is given.

        accelerate keeps one state a process: another precision makes another accelerator, and what
        the one before prepared must be done with.

        Raises:
            InputError: several processes, which hold on to the state they met in.
        """
        mixed = MIXED[(training or self.config.train).precision]
        made = self._accelerator
        if made is not None and (training is None or mixed == made.mixed_precision):
            return made
        if made is not None and made.num_processes > 1:
            raise InputError(
                "a run on several processes has one precision, but its trainings (teacher, init and "
                "student) have different ones; set them alike, or run it with one process until "
                "the shared ones are made"
            )
        AcceleratorState._reset_state()
        self._accelerator = Accelerator(
            cpu=self.request.device == "cpu" or not torch.cuda.is_available(),
            mixed_precision=mixed,
            # named, or accelerate takes one from the environment and divides losses by it
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            # what only the main rank does may take long, and the others wait for it
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        if self._accelerator.num_processes > 1:  # its threads must end before the interpreter does
            atexit.register(torch.distributed.destroy_process_group)
        return self._accelerator

    def note_comparison(self, line: str) -> None:
        """Says what was found of another engine, and keeps it for the markers of this command."""
        self.progress.say(line)
        self.compared.append(line)

    @property
    def place(self) -> tuple[int, int]:
        """This process among all: its rank, and how many there are."""
        made = self.accelerator()
        return made.process_index, made.num_processes

    def of_main(self, make: Callable[[], Made]) -> Made:
        """What the main rank makes, on every rank; so is its KdbenchError. See `ranks.of_main`."""
        self.accelerator()  # the ranks meet when it is made
        return of_main(make, main=self.is_main)

    @property
    def device(self) -> torch.device:
        """Where models live."""
        return self.accelerator().device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files."""
        return self.accelerator().is_main_process

    @contextlib.contextmanager
    def writing(self, folder: Path, *, wait: float = 0.0) -> Iterator[None]:
        """Holds a folder's lock on the main rank; the others go on once it is held.

        Raises:
            RunLocked: another live process holds it (after ``wait`` seconds).
            InputError: the folder is a run's that came in a bundle, without its student and answers.
        """
        with contextlib.ExitStack() as held:

            def hold() -> None:
                held.enter_context(RunLock(folder, wait=wait))
                if RunFolder(folder).left_out.exists():
                    raise InputError(
                        f"{folder} came in a bundle, without its student and answers, and nothing can be "
                        "added to it; choose a folder of runs without it (--runs-dir)"
                    )

            self.of_main(hold)
            yield
            self.accelerator().wait_for_everyone()

    @property
    def where(self) -> Circumstances:
        """What the names of a configuration are looked up in."""
        asked = self.request
        return Circumstances(asked.cache_dir, asked.device, asked.data_dir)

    def cached(self, kind: str, identity: str) -> Path:
        """Folder of a shared result: ``<cache>/<kind>/<id>``."""
        return self.request.cache_dir / kind / identity[:16]

    def spent(self, stage: Stage) -> Spent:
        """A watch on a stage that begins now."""
        return Spent(stage, self.peak_mb)

    def peak_mb(self) -> float:
        """Peak memory of this process so far, in MiB: of the device, or of a CPU's process."""
        return peak_memory_mb(self.device)


def open_session(request: Request, progress: Progress) -> Session:
    """A session on the device asked for, with every ``auto`` precision resolved.

    Of several processes all open theirs together: they find each other, and see the same folders.

    Raises:
        InputError: they were not started as they can work, or share no folder; no such device, or vLLM
            is to decode and cannot.
    """
    launch.check_launch()
    device = chosen_device(request.device)
    precision = resolve_precision("auto", device)
    config = with_precision(request.config, precision)
    if config.generate.engine == "vllm":
        check_installed()
        for asked in (config.answer_precision, config.train.sample_precision):
            check_dtype(sampling_dtype(asked))
    session = Session(request, config, progress)
    if launch.world() > 1:
        check_sharing(config)
        launch.check_started(session.accelerator().num_processes)
        for folder, option in (
            (request.runs_dir, "--runs-dir"),
            (request.cache_dir, "KDBENCH_CACHE"),
        ):
            check_shared(session, folder, option)
    return session


def check_sharing(config: RunConfig) -> None:
    """Raises InputError where models that processes share are to be decoded elsewhere."""
    shared = config.parallel.shard == "fsdp2"
    if config.generate.engine != "own" and (shared or config.parallel.teacher == "sharded"):
        raise InputError(
            "generate.engine=vllm does not decode for models that are shared among processes; leave it out, "
            "or parallel.shard and parallel.teacher"
        )


SEEN_WITHIN = 20.0
"""Seconds in which a file of one machine shows on the others."""


def check_shared(session: Session, folder: Path, option: str) -> None:
    """Sees that what the main rank writes in a folder the others can read.

    Raises:
        InputError: one of them does not see it; on every rank.
    """

    def write() -> str:
        name = f"shared-{secrets.token_hex(8)}"
        write_text(make_folder(folder) / name, "")
        return name

    name = session.of_main(write)
    until = time.monotonic() + SEEN_WITHIN
    while not (seen := (folder / name).is_file()) and time.monotonic() < until:
        time.sleep(0.1)
    blind = [rank for rank, saw in enumerate(gather_object([seen])) if not saw]
    if session.is_main:
        (folder / name).unlink(missing_ok=True)
    if blind:
        raise InputError(
            f"process {blind[0]} does not see what process 0 writes to {folder}; processes on several "
            f"machines need a folder that all of them share: name one by {option}"
        )


def chosen_device(asked: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a device; makes it the current one.

    Of several processes each takes the GPU of its number on this machine.

    Raises:
        InputError: no such device here.
    """
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        device = torch.device("cuda" if asked == "auto" else asked)
    except RuntimeError as error:
        raise InputError(f"no such device as {asked!r}; use --device cpu, cuda or auto") from error
    if launch.world() > 1 and device.type == "cuda":
        if device.index is not None:
            raise InputError(
                f"--device {asked} names one GPU, but several processes were started, which take one each; "
                "leave it out and set CUDA_VISIBLE_DEVICES"
            )
        if launch.local_rank() >= torch.cuda.device_count():
            raise InputError(
                f"process {launch.local_rank()} of this machine has no GPU of its own, since there are "
                f"{torch.cuda.device_count()}; start as many processes as GPUs, or add --device cpu"
            )
        device = torch.device("cuda", launch.local_rank())
    index = device.index or 0
    if device.type != "cuda" or not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise InputError(f"torch sees no device {asked!r} here; use --device cpu or auto")
    torch.cuda.set_device(index)
    return device
