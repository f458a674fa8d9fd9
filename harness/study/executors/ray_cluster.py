"""Workers as tasks of a Ray cluster; each starts a process of its own on the node it lands on."""

import os
from pathlib import Path

from kdbench.harness.errors import InputError
from kdbench.harness.study.executors.worker import (
    LOST,
    Handle,
    check_settings,
    extra,
    number_setting,
    run_worker,
    shared_variables,
)

SETTINGS = ("address", "cpus", "gpus")


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

    def start(self, arguments: list[str], log: Path, slot: int) -> Handle:
        """A task; Ray finds its node. Stopping it interrupts its process."""
        ray, variables = self._ray, shared_variables(self._threads)
        reference = self._task.remote(arguments, str(log), os.getcwd(), variables)

        def look() -> int | None:
            if not ray.wait([reference], timeout=0)[0]:
                return None
            try:
                return int(ray.get(reference))
            except (ray.exceptions.RayError, KeyboardInterrupt):  # its task or node died
                return LOST

        return Handle(look, lambda: ray.cancel(reference))

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()
