"""Workers on machines of a cluster: as tasks of Ray, or as jobs of Slurm through submitit.

Each starts a process of its own on the node it lands on. Neither library is imported before it is asked
for.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

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

RAY_SETTINGS = ("address", "cpus", "gpus")
SLURM_JOBS = 16
SLURM_DEFAULTS: dict[str, Any] = {"timeout_min": 24 * 60, "cpus_per_task": 4, "mem_gb": 16}


class RayExecutor:
    """Tasks that are never retried by Ray: what is done is for our markers to say.

    Args:
        jobs: tasks at once; None: as many as the cluster has room for.
        settings: ``address`` of a cluster (default: ``RAY_ADDRESS``, else one on this machine),
            ``cpus`` (1) and ``gpus`` (0) of each task.
    """

    def __init__(self, jobs: int | None, settings: dict[str, str]) -> None:
        check_settings("ray", settings, RAY_SETTINGS)
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


class SlurmExecutor:
    """Jobs that are never requeued by Slurm: what is done is for our markers to say.

    Args:
        jobs: queued or running at once; None: 16.
        settings: of ``submitit.AutoExecutor.update_parameters``, for example ``timeout_min``,
            ``cpus_per_task``, ``mem_gb``, ``gpus_per_node``, ``slurm_partition``; and ``cluster``:
            ``local`` runs the jobs as processes of this machine.
        out: folder of a study, on a disk that the nodes share; for submitit's own files.
    """

    def __init__(self, jobs: int | None, settings: dict[str, str], out: Path) -> None:
        submitit = extra("submitit", "slurm")
        cluster = settings.pop("cluster", "slurm")
        asked = {k: int(v) if v.isdecimal() else v for k, v in settings.items()}
        parameters = SLURM_DEFAULTS | asked
        try:
            self._executor = submitit.AutoExecutor(folder=out / "submitit", cluster=cluster)
            self._executor.update_parameters(name="kdbench", **parameters)
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"executor slurm cannot be set up: {reason}") from error
        self.jobs = jobs or SLURM_JOBS
        self._threads = int(parameters["cpus_per_task"])

    def start(self, arguments: list[str], log: Path, slot: int) -> Handle:
        """Submits a job. submitit calls a killed one finished: without a result it is lost."""
        variables = shared_variables(self._threads)
        job = self._executor.submit(run_worker, arguments, str(log), os.getcwd(), variables)

        def look() -> int | None:
            if not job.done():
                return None
            try:
                return int(job.result())
            except Exception:  # submitit raises its own, or what the job raised
                return LOST

        def stop() -> None:
            with contextlib.suppress(Exception):  # it may be gone already
                job.cancel()

        return Handle(look, stop)

    def close(self) -> None:
        """Jobs go on without us."""
