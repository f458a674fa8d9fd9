"""A study's runs in a bundle: found by what their ids stand for, since nothing here made them."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from kdbench.harness.config import RunConfig, with_precision
from kdbench.harness.contents import Identified
from kdbench.harness.errors import InputError
from kdbench.harness.files.run_folder import RunFolder, runs_in
from kdbench.harness.identity import DATA_NAMES, Contents, run_id, run_parts
from kdbench.harness.study.definition import Cell
from kdbench.harness.study.estimates import Estimate
from kdbench.harness.study.plan import Plan, PlannedCell
from kdbench.harness.study.state import State

_NONE = Estimate(0.0, "a bundle makes no runs")


def bundled_plan(cells: Sequence[Cell], folder: Path) -> Plan:
    """Which cells have their run in an opened bundle; the others stay to do.

    A run is a cell's if its id follows from the cell's configuration and from what the run says its
    models and data contain, and if these were asked for by the same names.

    Raises:
        InputError: the bundle holds several runs of one cell.
    """
    runs = runs_in(folder)
    return Plan([PlannedCell(cell, _state(cell, runs), _NONE) for cell in cells])


def _state(cell: Cell, runs: Sequence[RunFolder]) -> State:
    fitting = [(run, found) for run in runs if (found := _identified(cell.config, run))]
    if len(fitting) > 1:
        names = ", ".join(run.name for run, _ in fitting)
        raise InputError(
            f"{cell.name}: the bundle holds several runs of it, made of different models or data "
            f"({names}); unite only bundles of one teacher and one data set"
        )
    if not fitting:
        return State("to do", None, None)
    run, identity = fitting[0]
    return State("cached", identity, run)


def _identified(asked: RunConfig, run: RunFolder) -> Identified | None:
    """The run as one of this configuration; None if it is not."""
    stored, identity = run.config.find(), run.identity.find()
    if stored is None or identity is None or not _same_names(asked, stored.tree()):
        return None
    parts = identity.parts
    try:
        contents = Contents(**parts["contents"])
        precision = (stored.tree().get("train") or {}).get("precision", "auto")
        config = with_precision(asked, precision)
        found = run_id(run_parts(config, contents))
    except (KeyError, TypeError, ValueError, ValidationError):
        return None
    return Identified(config, found) if found == run.id else None


def _same_names(asked: RunConfig, stored: dict[str, object]) -> bool:
    """Whether models and data were asked for by the same names; what they contain, the run says."""
    data = stored.get("data")
    there = {name: data.get(name) for name in DATA_NAMES} if isinstance(data, dict) else {}
    return stored.get("pair") == asked.pair.model_dump(mode="json") and there == {
        name: getattr(asked.data, name) for name in DATA_NAMES
    }
