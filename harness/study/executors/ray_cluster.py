"""Workers as tasks of a Ray cluster; each starts a process of its own on the node it lands on."""

import os
from pathlib import Path
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.study.executors import (
    LOST,
    check_settings,
    extra,
    number_setting,
    run_worker,
    shared_variables,
)

SETTINGS = ("address", "cpus", "gpus")


class RayHandle:
    """One task."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray = ray
        self._reference = reference
        self._code: int | None = None

    def poll(self) -> int | None:
        """The worker's exit code; `LOST` if its task or node died."""
        if self._code is None and self._ray.wait([self._reference], timeout=0)[0]:
            try:
                self._code = int(self._ray.get(self._reference))
            except (self._ray.exceptions.RayError, KeyboardInterrupt):
                self._code = LOST
        return self._code

    def stop(self) -> None:
        """Interrupts the task, which interrupts its process."""
        self._ray.cancel(self._reference)


class RayExecutor:
    """Tasks that are never retried by Ray: what is done is for our markers to say.

    Args:
        jobs: tasks at once; None: as many as the cluster has room for.
        settings: ``address`` of a cluster (default: ``RAY_ADDRESS``, else one on this machine),
            ``cpus`` (1) and ``gpus`` (0) of each task.
    """

    def __init__(self, jobs: int | None, settings: dict[str, str]) -> None:
        check_settings("ray", settings, SETTINGS)
        ray = extra("ray", "ray")
        cpus = number_setting(settings, "cpus", 1.0)
        gpus = number_setting(settings, "gpus", 0.0)
        self._ray = ray
        if not ray.is_initialized():
            try:
                ray.init(address=settings.get("address"), log_to_driver=False)
            except ConnectionError as error:
                raise InputError(f"no Ray cluster answers ({error})") from error
        room = ray.cluster_resources()
        places = [room.get("CPU", 0.0) / cpus] if cpus else []
        places += [room.get("GPU", 0.0) / gpus] if gpus else []
        self.jobs = jobs or max(1, int(min(places, default=1)))
        self._threads = max(1, int(cpus))
        self._task = ray.remote(run_worker).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)

    def start(self, arguments: list[str], log: Path, slot: int) -> RayHandle:
        """A task; Ray finds its node."""
        variables = shared_variables(self._threads)
        return RayHandle(self._ray, self._task.remote(arguments, str(log), os.getcwd(), variables))

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()
