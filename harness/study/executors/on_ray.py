"""Workers on a Ray cluster: a task for a run on one node, a placement group for one on several.

Ray keeps CPUs, GPUs and resources of other names apart; a task sees the GPUs that it was given. Ray is not
imported before it is asked for.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.study.executors.meeting import Meeting
from kdbench.harness.study.executors.worker import (
    LOST,
    Handle,
    check_settings,
    code_of_all,
    extra,
    lost,
    number_setting,
    run_worker,
    shared_variables,
    whole_setting,
)

MISSED_S = 60.0
"""Seconds in which a cluster notices that a node is gone."""
SETTINGS = ("address", "cpus", "gpus", "processes", "nodes", "resource")


class RayExecutor:
    """Runs that are never retried by Ray: what is done is for our markers to say.

    Args:
        jobs: runs at once; None: as many as the cluster has room for.
        settings: ``address`` of a cluster (default: ``RAY_ADDRESS``, else one on this machine); of each
            run ``nodes`` (1) and, on each of its nodes, ``processes`` (1), ``cpus`` (one a process), ``gpus``
            (one a process where the cluster has GPUs) and a ``resource`` of another name, as ``a100:2``.
        device: what the workers are told to use.

    Raises:
        InputError: no cluster answers, or it has no nodes for such a run.
    """

    def __init__(self, jobs: int | None, settings: dict[str, str], device: str = "auto") -> None:
        check_settings("ray", settings, SETTINGS)
        ray = extra("ray", "ray")
        self._ray = ray
        if not ray.is_initialized():
            try:
                ray.init(address=settings.get("address"), log_to_driver=False)
            except ConnectionError as error:
                raise InputError(f"no Ray cluster answers ({error})") from error
        there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._nodes = whole_setting(settings, "nodes", 1)
        self._processes = whole_setting(settings, "processes", 1)
        self._need = _need(settings, self._processes, there, device)
        fitting = [_places(node, self._need) for node in there]
        if sum(count > 0 for count in fitting) < self._nodes:
            ray.shutdown()
            raise InputError(_impossible(self._need, self._nodes, there))
        self.jobs = jobs or max(1, sum(fitting) // self._nodes)
        self._threads = max(1, int(self._need["CPU"]) // self._processes)

    def start(self, arguments: list[str], log: Path, slot: int) -> Handle:
        """A run; Ray finds its nodes. Stopping it interrupts its processes."""
        variables = shared_variables(self._threads)
        job = [arguments, str(log), os.getcwd(), variables, self._processes]
        if self._nodes > 1:
            gang = _Gang(self._ray, self._need, self._nodes, job)
            return Handle(gang.look, gang.stop, "tasks of Ray")
        task = _task(self._ray, run_worker, self._need).remote(*job)
        return Handle(
            lambda: _outcome(self._ray, task), lambda: self._ray.cancel(task), "a task of Ray"
        )

    def slots_of(self, processes: Sequence[int]) -> list[int]:
        """None: the cluster knows what is taken."""
        return []

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()


class _Gang:
    """A run on several nodes: all its tasks or none."""

    def __init__(self, ray: Any, need: dict[str, float], nodes: int, job: list[Any]) -> None:
        from ray.util.placement_group import placement_group

        self._ray, self._need, self._nodes, self._job = ray, need, nodes, job
        self._group = placement_group([need] * nodes, strategy="STRICT_SPREAD")
        self._meeting = self._on(0, meeting_place, {}).remote()
        self._tasks: list[Any] = []
        self._ended: int | None = None
        self._failed = 0.0

    def look(self) -> int | None:
        """Exit code of the whole, or None while it waits for nodes or runs.

        The first failure is that of the run: the other tasks are ended, since they only wait for it.
        """
        if self._ended is None:
            self._ended = self._found()
            if self._ended is not None:
                self.stop()
        return self._ended

    def _found(self) -> int | None:
        if not self._tasks:
            if not self._ray.wait([self._meeting], timeout=0)[0]:
                return None
            if not self._start():
                return LOST
        codes = [_outcome(self._ray, task) for task in self._tasks]
        failed = [code for code in codes if code]
        if any(map(lost, failed)):
            return code_of_all(failed)
        if failed == [1] * len(failed) and None in codes:
            # processes that lose another fail, too, and often are heard of before its node is missed
            self._failed = self._failed or (time.monotonic() if failed else 0.0)
            if not failed or time.monotonic() - self._failed < MISSED_S:
                return None
        return code_of_all(failed)

    def _start(self) -> bool:
        try:
            place = self._ray.get(self._meeting)
        except (self._ray.exceptions.RayError, KeyboardInterrupt):
            return False
        arguments, log, *rest = self._job
        for node in range(self._nodes):
            meeting = Meeting(self._nodes, place, place, node == 0)
            own = log if node == 0 else f"{log}.node{node}"
            task = self._on(node, run_worker, self._need)
            self._tasks.append(task.remote(arguments, own, *rest, meeting))
        return True

    def _on(self, node: int, function: Callable[..., Any], need: dict[str, float]) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=node)
        return _task(self._ray, function, need, scheduling_strategy=place)

    def stop(self) -> None:
        """Interrupts its tasks and gives its nodes back."""
        from ray.util.placement_group import remove_placement_group

        for task in self._tasks or [self._meeting]:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(task)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=10)
        remove_placement_group(self._group)


def meeting_place() -> str:
    """``host:port`` of a free port on the node where this is called."""
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _task(ray: Any, function: Callable[..., Any], need: dict[str, float], **more: Any) -> Any:
    others = {name: amount for name, amount in need.items() if name not in ("CPU", "GPU")}
    return ray.remote(function).options(
        num_cpus=need.get("CPU", 0.0),
        num_gpus=need.get("GPU", 0.0),
        resources=others or None,
        max_retries=0,
        **more,
    )


def _outcome(ray: Any, reference: Any) -> int | None:
    """Exit code of a task, or None while it runs or waits for a place."""
    if not ray.wait([reference], timeout=0)[0]:
        return None
    try:
        return int(ray.get(reference))
    except (ray.exceptions.RayError, KeyboardInterrupt):  # its task or node died
        return LOST


def _need(
    settings: dict[str, str], processes: int, there: list[dict[str, float]], device: str
) -> dict[str, float]:
    """What a run takes of each of its nodes, by resource."""
    cards = device in ("auto", "cuda") and any(node.get("GPU") for node in there)
    need = {
        "CPU": number_setting(settings, "cpus", float(processes)),
        "GPU": number_setting(settings, "gpus", float(processes if cards else 0)),
    }
    if processes > 1 and 0 < need["GPU"] < processes:
        raise InputError(
            f"executor settings processes={processes} and gpus={need['GPU']:g}: each process takes a GPU of "
            f"its own; ask for gpus={processes}"
        )
    if "resource" in settings:
        name, _, amount = settings["resource"].partition(":")
        need[name] = number_setting({"resource": amount or "1"}, "resource", 1.0)
    return {name: amount for name, amount in need.items() if amount or name == "CPU"}


def _places(node: dict[str, float], need: dict[str, float]) -> int:
    """How many such runs a node has room for."""
    return int(min((node.get(n, 0.0) / amount for n, amount in need.items() if amount), default=1))


def _impossible(need: dict[str, float], nodes: int, there: list[dict[str, float]]) -> str:
    asked = ", ".join(f"{amount:g} {name}" for name, amount in need.items() if amount)
    rooms = sorted([node.get(name, 0.0) for name in need] for node in there)  # Ray has no order
    have = "; ".join(
        ", ".join(f"{room:g} {name}" for room, name in zip(each, need, strict=True))
        for each in rooms
    )
    several = f"{nodes} nodes with {asked} each" if nodes > 1 else f"a node with {asked}"
    return f"a run asks for {several}, but the Ray cluster's nodes have: {have}"
