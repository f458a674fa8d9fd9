"""Workers as processes of this machine, its cores and GPUs divided among them."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from kdbench.harness.errors import InputError
from kdbench.harness.provenance import available_cores
from kdbench.harness.study.executors.worker import (
    Handle,
    check_settings,
    number_setting,
    shared_variables,
    spawn,
    whole_setting,
)

SETTINGS = ("threads", "gpus", "processes")


class LocalExecutor:
    """A pool of places, each with its share of the cores and GPUs.

    Args:
        jobs: how many at once; None: as many as the GPUs make places, else one.
        settings: ``gpus`` of each run, ``processes`` of each run (default: one for each of its GPUs),
            ``threads`` of each process (default: an equal share of the cores).
        device: what the processes are told to use; GPUs are divided unless it names one device.

    Raises:
        InputError: more GPUs than there are, or more than one machine.
    """

    def __init__(self, jobs: int | None, settings: dict[str, str], device: str) -> None:
        if "nodes" in settings:
            raise InputError(
                "executor local is this machine alone, so it has no nodes; runs over several need ray "
                "or slurm"
            )
        check_settings("local", settings, SETTINGS)
        devices = visible_gpus() if device in ("auto", "cuda") else []
        asked = whole_setting(settings, "gpus", 0, 0)
        self._processes = whole_setting(settings, "processes", max(1, asked))
        _refuse_impossible(devices, asked, self._processes, jobs, device)
        self._places = dealt(devices, asked or self._processes)
        self._dealt = bool(asked)
        self.jobs = jobs or max(1, len(self._places))
        share = max(1, available_cores() // (self.jobs * self._processes))
        self._threads = max(1, int(number_setting(settings, "threads", share)))

    def start(self, arguments: list[str], log: Path, slot: int) -> Handle:
        """A process, or several; each place has GPUs of its own.

        In a session of its own: it outlives its driver, and Ctrl-C does not reach it.
        """
        extra = {}
        if len(self._places) > 1 or self._dealt:
            extra["CUDA_VISIBLE_DEVICES"] = self._places[slot % len(self._places)]
        variables = shared_variables(self._threads) | extra
        process = spawn(
            arguments, log, variables, processes=self._processes, start_new_session=True
        )

        def stop() -> None:
            # not SIGINT: a driver in the background of a shell ignores it, and so do its children
            os.killpg(process.pid, signal.SIGTERM)

        return Handle(process.poll, stop, f"process {process.pid}")

    def slots_of(self, processes: Sequence[int]) -> list[int]:
        """Those with the GPUs that a process was given; of others the first that are left."""
        places = [
            self._places[s % len(self._places)] if self._places else "" for s in range(self.jobs)
        ]
        found: list[int] = []
        for process in processes:
            gpus = _gpus_of(process)
            its = [s for s, place in enumerate(places) if place == gpus] or list(range(self.jobs))
            found.append(next((slot for slot in its if slot not in found), its[0]))
        return found

    def close(self) -> None:
        """Nothing to let go of."""


def _gpus_of(process: int) -> str | None:
    """``CUDA_VISIBLE_DEVICES`` of a process of this machine; None where that cannot be told."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return None
    named = dict(each.partition("=")[::2] for each in variables.split("\0"))
    return named.get("CUDA_VISIBLE_DEVICES")


def dealt(devices: Sequence[str], each: int) -> list[str]:
    """GPUs in places of ``each``, as CUDA_VISIBLE_DEVICES names them; what is left over rests."""
    return [",".join(devices[i : i + each]) for i in range(0, len(devices) - each + 1, each)]


def _refuse_impossible(
    devices: Sequence[str], gpus: int, processes: int, jobs: int | None, device: str
) -> None:
    there = f"this machine has {len(devices)}" + (f" ({','.join(devices)})" if devices else "")
    if gpus and device not in ("auto", "cuda"):
        raise InputError(
            f"executor setting gpus={gpus} and --device {device} exclude each other; leave one of them out"
        )
    if gpus > len(devices):
        raise InputError(f"executor setting gpus={gpus} asks for {gpus} GPUs a run, but {there}")
    if gpus and processes > gpus:
        raise InputError(
            f"executor settings processes={processes} and gpus={gpus}: each process takes a GPU of its own; "
            f"ask for gpus={processes}"
        )
    each = gpus or (processes if devices and processes > 1 else 0)
    if each > len(devices):
        raise InputError(
            f"executor setting processes={processes}: each process takes a GPU of its own, but {there}; "
            "ask for fewer, or add --device cpu"
        )
    if each and jobs and each * jobs > len(devices):
        raise InputError(
            f"--jobs {jobs} with {each} GPUs a run needs {each * jobs} GPUs, but {there}; "
            f"use --jobs {len(devices) // each}"
        )


DEVICES = Path("/dev")


def visible_gpus() -> list[str]:
    """The GPUs we may use, found without importing torch.

    Counted, not named: a container may show a host's cards 2 and 3, which CUDA calls 0 and 1.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    found = [p.name.removeprefix("nvidia") for p in DEVICES.glob("nvidia[0-9]*")]
    return [str(place) for place in range(sum(name.isdigit() for name in found))]
