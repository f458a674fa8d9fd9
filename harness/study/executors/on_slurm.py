"""Workers as jobs of Slurm through submitit: one job a run, one task a node, which starts the processes.

submitit is not imported before it is asked for.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.files.shipped import parse_yaml
from kdbench.harness.study.executors.meeting import Meeting
from kdbench.harness.study.executors.worker import (
    LOST,
    Handle,
    code_of_all,
    extra,
    run_worker,
    shared_variables,
    whole_setting,
)

JOBS = 16
UNFIT = (AssertionError, TypeError, ValueError)
"""What submitit raises at a parameter of another type."""
TIME = {"timeout_min": 24 * 60}
A_PROCESS = {"cpus_per_task": 4, "mem_gb": 16}
"""What is asked for unless said otherwise, the second for each process of a node."""
PORTS = (20_000, 20_000)
"""First port where nodes of a job meet, and how many there are: which one follows from the job's number."""
LISTS = ("slurm_setup", "slurm_teardown", "slurm_srun_args")
WRITTEN = re.compile(r"[-+]?0\d.*|.*:.*")
"""Values that YAML would count and Slurm does not: 0123, and times as 10:00:00."""
TASKS = ("tasks_per_node", "ntasks_per_node", "slurm_ntasks_per_node")


class SlurmExecutor:
    """Jobs that are never requeued by Slurm: what is done is for our markers to say.

    Args:
        jobs: queued or running at once; None: 16.
        settings: of each run ``nodes`` (1) and, on each of them, ``gpus`` (0) and ``processes`` (one a GPU);
            those of ``submitit.AutoExecutor.update_parameters``, for example ``timeout_min``,
            ``cpus_per_task`` and ``mem_gb`` (of a node), ``slurm_partition``; and ``cluster``: ``local`` runs
            the jobs as processes of this machine.
        out: folder of a study, on a disk that the nodes share; for submitit's own files.

    Raises:
        InputError: Slurm is not here, or a setting does not fit.
    """

    def __init__(self, jobs: int | None, settings: dict[str, str], out: Path) -> None:
        submitit = extra("submitit", "slurm")
        cluster = settings.pop("cluster", "slurm")
        self._nodes = whole_setting(settings, "nodes", 1)
        gpus = whole_setting(settings, "gpus", 0, 0)
        self._processes = whole_setting(settings, "processes", max(1, gpus))
        _refuse_impossible(settings, cluster, self._nodes, self._processes, gpus)
        own = ("nodes", "gpus", "processes")
        asked = {k: _value(k, v) for k, v in settings.items() if k not in own}
        usual = {name: each * self._processes for name, each in A_PROCESS.items()}
        parameters: dict[str, Any] = TIME | usual | asked
        if gpus:
            parameters["gpus_per_node"] = gpus
        if self._nodes > 1:
            parameters |= {"nodes": self._nodes, "tasks_per_node": 1}
            # one task that fails ends the others, which would only wait for it
            if parameters.get("slurm_use_srun") is False:
                raise InputError(
                    "executor slurm: a run on several nodes needs srun to start it on each"
                )
            theirs = parameters.get("slurm_srun_args", [])
            parameters["slurm_srun_args"] = [*theirs, "--kill-on-bad-exit=1"]
        try:
            self._executor = submitit.AutoExecutor(folder=out / "submitit", cluster=cluster)
            self._executor.update_parameters(name="kdbench", **parameters)
            self._threads = max(1, int(parameters["cpus_per_task"] or 1) // self._processes)
        except (RuntimeError, NameError, *UNFIT) as error:
            raise InputError(f"executor slurm cannot be set up: {_reason(error)}") from error
        self._refused = submitit.core.utils.FailedJobError
        self.jobs = jobs or JOBS

    def start(self, arguments: list[str], log: Path, slot: int) -> Handle:
        """Submits a job. submitit calls a killed one finished: without a result it is lost.

        Raises:
            InputError: Slurm refuses it.
        """
        variables = shared_variables(self._threads)
        job_of = [arguments, str(log), os.getcwd(), variables, self._processes, self._nodes]
        try:
            job = self._executor.submit(run_on_node, *job_of)
        except (self._refused, *UNFIT) as error:
            raise InputError(f"Slurm refuses the job: {_reason(error)}") from error

        def look() -> int | None:
            if not job.done():
                return None
            try:
                codes = [int(code) for code in job.results()]
            except Exception:  # submitit raises its own, or what the job raised
                return LOST
            return code_of_all(codes)

        def stop() -> None:
            with contextlib.suppress(Exception):  # it may be gone already
                job.cancel()

        return Handle(look, stop, f"Slurm job {job.job_id}")

    def slots_of(self, processes: Sequence[int]) -> list[int]:
        """None: the cluster knows what is taken."""
        return []

    def close(self) -> None:
        """Jobs go on without us."""


def run_on_node(
    arguments: list[str],
    log: str,
    cwd: str,
    variables: dict[str, str],
    processes: int,
    nodes: int,
) -> int:
    """One task of a job: the run's processes on its node; they meet those of the others on the first."""
    if nodes == 1:
        return run_worker(arguments, log, cwd, variables, processes)
    from submitit import JobEnvironment

    here = JobEnvironment()
    port = PORTS[0] + int(here.raw_job_id.partition("_")[0]) % PORTS[1]
    place = f"{here.hostnames[0]}:{port}"
    meeting = Meeting(nodes, place, f"slurm-{here.job_id}", here.node == 0)
    own = log if here.node == 0 else f"{log}.node{here.node}"
    return run_worker(arguments, own, cwd, variables, processes, meeting)


def _value(key: str, text: str) -> Any:
    """A setting as ``--set`` reads it; what Slurm's own syntax writes in brackets stays text."""
    value = parse_yaml(text, f"executor setting {key}={text}")
    if key in LISTS:
        one = value if isinstance(value, str) else text
        return [str(each) for each in value] if isinstance(value, list) else [one]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, list) or (number and WRITTEN.fullmatch(text)):
        return text
    return value


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _refuse_impossible(
    settings: dict[str, str], cluster: str, nodes: int, processes: int, gpus: int
) -> None:
    for name in TASKS:
        if name in settings:
            raise InputError(
                f"executor slurm starts one task a node, which starts the processes: leave {name} out and "
                "set processes"
            )
    if cluster == "local" and nodes > 1:
        raise InputError(
            f"executor slurm:cluster=local is this machine alone, so nodes={nodes} needs Slurm"
        )
    if gpus and processes > gpus:
        raise InputError(
            f"executor settings processes={processes} and gpus={gpus}: each process takes a GPU of its own; "
            f"ask for gpus={processes}"
        )
