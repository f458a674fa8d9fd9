"""Workers as Slurm jobs, through submitit."""

import contextlib
import os
from pathlib import Path
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.study.executors.worker import LOST, Handle, extra, run_worker, shared_variables

JOBS = 16
DEFAULTS: dict[str, Any] = {"timeout_min": 24 * 60, "cpus_per_task": 4, "mem_gb": 16}


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
        parameters = DEFAULTS | asked
        try:
            self._executor = submitit.AutoExecutor(folder=out / "submitit", cluster=cluster)
            self._executor.update_parameters(name="kdbench", **parameters)
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"executor slurm cannot be set up: {reason}") from error
        self.jobs = jobs or JOBS
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
