"""Workers as processes of this machine, its cores and GPUs divided among them."""

import os
import signal
from pathlib import Path

from kdbench.harness.provenance import available_cores
from kdbench.harness.study.executors.worker import (
    Handle,
    check_settings,
    number_setting,
    shared_variables,
    spawn,
)

SETTINGS = ("threads",)


class LocalExecutor:
    """A pool of processes.

    Args:
        jobs: how many at once; None: one for each GPU, else one.
        settings: ``threads``, of each process; default: an equal share of the cores.
        device: what the processes are told to use; GPUs are divided unless it names one device.
    """

    def __init__(self, jobs: int | None, settings: dict[str, str], device: str) -> None:
        check_settings("local", settings, SETTINGS)
        self._devices = _gpus() if device in ("auto", "cuda") else []
        self.jobs = jobs or max(1, len(self._devices))
        share = max(1, available_cores() // self.jobs)
        self._threads = max(1, int(number_setting(settings, "threads", share)))

    def start(self, arguments: list[str], log: Path, slot: int) -> Handle:
        """A process; with several GPUs each slot has its own.

        In a session of its own: it outlives its driver, and Ctrl-C does not reach it.
        """
        extra = {}
        if len(self._devices) > 1:
            extra["CUDA_VISIBLE_DEVICES"] = self._devices[slot % len(self._devices)]
        variables = shared_variables(self._threads) | extra
        process = spawn(arguments, log, variables, start_new_session=True)
        return Handle(process.poll, lambda: os.killpg(process.pid, signal.SIGINT))

    def close(self) -> None:
        """Nothing to let go of."""


def _gpus() -> list[str]:
    """The GPUs we may use, found without importing torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    found = [p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in found if name.isdigit()), key=int)
