"""Trackers (TensorBoard, trackio, W&B …) through accelerate: what a training logs, shown elsewhere too.

Nothing is sent anywhere unless ``--track`` (or ``KDBENCH_TRACK``) names a tracker. No result depends on it,
and a tracker that fails in the middle of a training ends its own lines, not the training.
"""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from kdbench.harness.errors import InputError, unknown
from kdbench.harness.files.records import Estimate, Summary, TrainRow
from kdbench.harness.files.store import Say
from kdbench.harness.foreign import foreign
from kdbench.harness.session import Session

FOLDER = "tracking"
"""Beside the folder of runs: what trackers write that have files and no place of their own."""
PROJECT = "kdbench"


def check_trackers(names: str | None) -> list[str]:
    """The trackers of ``--track``, installed ones.

    Raises:
        InputError: accelerate knows none of this name, or it is not installed.
    """
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in wanted:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise unknown("tracker", name, LOGGER_TYPE_TO_CLASS)
        if not LOGGER_TYPE_TO_CLASS[name].__module__.startswith("accelerate."):
            continue  # of another package, which is there
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--track {name}: it is not installed; pip install 'kdbench[{name}]'")
    return wanted


@dataclass(slots=True)
class Tracking:
    """The trackers of one run.

    Attributes:
        trackers: open ones.
        say: told once of each that fails.
    """

    trackers: list[GeneralTracker]
    say: Say

    def row(self, row: TrainRow) -> None:
        """One logged step of the student's training."""
        tokens = {f"tokens/{kind}": count for kind, count in row.tokens.items()}
        values = {"loss": row.loss, "lr": row.lr, "grad_norm": row.grad_norm, **row.terms, **tokens}
        known = {f"train/{name}": value for name, value in values.items() if value is not None}
        self._log(known | {f"dev/{name}": v for name, v in row.evaluation.items()}, row.step)

    def scores(self, summary: Summary, step: int) -> None:
        """What the student scored in each task."""
        found = {
            f"scores/{each.task}/{metric}": value.mean
            for each in summary.scores.values()
            for metric, value in each.metrics.items()
            if isinstance(value, Estimate)
        }
        self._log(found, step)

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, *_: object) -> None:
        """Sends what is left."""
        for tracker in self.trackers:
            self._try(tracker, tracker.finish)
        self.trackers.clear()

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for tracker in list(self.trackers):
            self._try(tracker, lambda tracker=tracker: tracker.log(dict(values), step=step))

    def _try(self, tracker: GeneralTracker, call: Any) -> None:
        try:
            call()
        except Exception as error:  # a network, a full disk, code of others
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.say(f"note: tracker {tracker.name} failed and is left out from here on ({reason})")
            if tracker in self.trackers:
                self.trackers.remove(tracker)


def open_tracking(session: Session, name: str) -> Tracking:
    """The trackers that the command asks for, with the run's name and configuration.

    Args:
        session: the command.
        name: of the run.

    Raises:
        InputError: one cannot be opened.
    """
    request = session.request
    wanted = check_trackers(request.track) if session.is_main else []
    made = []
    for each in wanted:
        kind = LOGGER_TYPE_TO_CLASS[each]
        with foreign(f"tracker {each} cannot be opened", "mend that, or leave out --track"):
            tracker = _made(kind, each, session.config.suite, name, request.runs_dir)
            tracker.start()
            tracker.store_init_configuration(dict(flat(session.config.model_dump(mode="json"))))
        made.append(tracker)
    return Tracking(made, session.progress.say)


def _made(kind: Any, tracker: str, suite: str, name: str, runs_dir: Path) -> GeneralTracker:
    """A tracker by its constructor: those with folders name the run by one, the others a project."""
    if kind.requires_logging_directory:
        folder = runs_dir.resolve().parent / FOLDER
        os.makedirs(folder, exist_ok=True)
        return kind(name, str(folder))
    named: dict[str, Any] = {}
    if tracker in ("wandb", "trackio"):  # the same run again, where it was interrupted
        named = {"name": name, "resume": "allow"}
    if tracker == "wandb":
        named["id"] = name
    return kind(f"{PROJECT}-{suite}", **named)


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A configuration by dotted keys, with values that every tracker takes."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        elif value is not None:
            plain = isinstance(value, bool | int | float | str)
            found.append((f"{prefix}{key}", value if plain else str(value)))
    return found
