"""TAID's interpolation schedule against the authors' code."""

from collections.abc import Iterator
from typing import Any

from kdbench.harness.conform.value import Value, flat
from kdbench.trainers.methods.taid import Schedule


def taid_schedule(data: dict[str, Any]) -> Iterator[Value]:
    """T after each step of a given loss curve."""
    for number, case in enumerate(data["cases"]):
        settings, total = case["settings"], case["num_train_steps"]
        schedule = Schedule(
            settings["t_start"], settings["t_end"], settings["alpha"], settings["beta"]
        )
        ours = [schedule.update(loss, step / total) for step, loss in enumerate(case["losses"])]
        yield Value(f"taid_schedule[{number}].t", flat(case["expected_t"]), ours)
