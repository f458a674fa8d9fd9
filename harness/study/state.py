"""How far a run is, judged by our own markers only: no scheduler's word counts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from kdbench.harness.config import RunConfig, unstated
from kdbench.harness.contents import Circumstances, Identified, recall
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.names import Asked, tasks_of
from kdbench.harness.files.records import EvaluationRecord
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.probes import sampling
from kdbench.harness.references import references_of, tasks_asked
from kdbench.harness.resolve import says_tuning
from kdbench.harness.study.answered import asked_now, asked_so
from kdbench.harness.study.definition import Cell
from kdbench.tasks.protocols import get_protocol

How = Literal["to do", "partial", "cached"]
"""Kinds of tasks whose answers are drawn from prompts of ours or a user's."""


class Place(NamedTuple):
    """Where runs are, and where what they share is looked up."""

    runs_dir: Path
    where: Circumstances


class State(NamedTuple):
    """How far one cell is."""

    how: How
    identity: Identified | None
    run: RunFolder | None
    missing: tuple[str, ...] = ()
    """What a partial run still lacks."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.how == "cached"

    @property
    def trained(self) -> bool:
        """Whether nothing is left of its training."""
        return self.done or (
            self.how == "partial" and not {"training", "summary"} & {*self.missing}
        )


def state_of(cell: Cell, place: Place) -> State:
    """Looks a cell's run up; its id is unknown until a run of the same pair and data was begun.

    A run whose own folder is whole still lacks what ``kdbench run`` evaluates after it: reference rows.
    """
    identity = recall(place.where, cell.config)
    if identity is None:
        return State("to do", None, None)
    run = RunFolder(place.runs_dir / identity.name)
    if not run.config.exists():
        return State("to do", identity, run)
    data_dir = place.where.data_dir
    given = says_tuning(cell.arguments)
    missing = missing_of(run, identity.config, data_dir, given=given)
    missing = missing or missing_references(run, identity.config, data_dir)
    return State("partial" if missing else "cached", identity, run, tuple(missing))


def missing_of(
    run: RunFolder, config: RunConfig, data_dir: Path | None = None, *, given: bool = False
) -> list[str]:
    """What ``kdbench run`` with this configuration would still do in a run folder.

    Args:
        run: the folder.
        config: what is asked for.
        data_dir: folder of real data sets.
        given: whether the command itself says how its settings were found.
    """
    try:
        if not run.marked():
            return ["training"]
        stored = _stored(run)
        untold = unstated(run.config.read().tree(), config, given=given)
    except InputError:
        return ["summary"]
    asked = tasks_of(config.tasks)
    texts = [task.name for task in asked if task.in_words]
    missing = ["how it was tuned"] if untold else []
    for name, evaluation in _found(stored, asked, config, data_dir):
        if evaluation is None:
            missing.append(name)
        elif name in texts:
            missing += _unmeasured(evaluation, config, texts)
    return missing


def missing_references(run: RunFolder, config: RunConfig, data_dir: Path | None) -> list[str]:
    """Tasks that the models which a finished run is compared with were not asked yet.

    Their probes are not looked at: which of them a model has is known when it is measured.
    """
    asked = tasks_of(config.tasks)
    try:
        references = references_of(run, config) if asked else {}
    except InputError:
        return ["prepare"]
    missing = []
    for label, folder in references.items():
        try:
            stored = _stored(folder) if folder.summary.exists() else []
        except InputError:
            stored = []
        found = _found(stored, tasks_asked(label, asked), config, data_dir)
        missing += [f"{name} of {label}" for name, evaluation in found if evaluation is None]
    return missing


def asked_of(
    run: RunFolder, config: RunConfig, data_dir: Path | None, *, foreign: bool
) -> list[str]:
    """Keys of a run's evaluations that a configuration asks for, in each of its ways of answering.

    Args:
        run: the run.
        config: what is asked.
        data_dir: folder of real data sets.
        foreign: of a run of another machine, whose rows are not here, only settings are compared.
    """
    stored, asked = _stored(run), tasks_of(config.tasks)
    if not foreign:
        found = _found(stored, asked, config, data_dir)
        return [evaluation.key for _, evaluation in found if evaluation is not None]
    return [
        evaluation.key
        for task, each in _ways(asked, config)
        for evaluation, record in stored
        if asked_so(record, task, each)
    ]


_Stored = list[tuple[Evaluation, EvaluationRecord]]


def _stored(run: RunFolder) -> _Stored:
    """Evaluations that the folder's summary tells of."""
    summarised = run.summary.read().scores
    stored = [e for e in run.evaluations() if e.key in summarised and e.record.exists()]
    return [(evaluation, evaluation.record.read()) for evaluation in stored]


def _found(
    stored: _Stored, asked: Sequence[Asked], config: RunConfig, data_dir: Path | None
) -> Iterator[tuple[str, Evaluation | None]]:
    """Each task, in each way of answering, and its evaluation if there is one as things are now."""
    for task, each in _ways(asked, config):
        fit = (e for e, record in stored if asked_now(e, record, task, each, data_dir))
        first = each.generate is config.generate
        yield task.name if first else f"{task.name} greedy", next(fit, None)


def _ways(asked: Sequence[Asked], config: RunConfig) -> Iterator[tuple[Asked, RunConfig]]:
    """Each task, with a configuration of one way of answering it."""
    for way in config.generate.ways:
        each = config.model_copy(update={"generate": way})
        yield from ((t, each) for t in asked if way is config.generate or t.in_words)


def _unmeasured(evaluation: Evaluation, config: RunConfig, tasks: list[str]) -> list[str]:
    """Probes that a task still gets: exposure on one task only, the truth where it is known."""
    exposed = "dolly" if "dolly" in tasks else tasks[0]
    return [
        f"{probe} of {evaluation.task}"
        for probe in config.tasks.probes
        if (probe != "exposure" or evaluation.task == exposed)
        and (probe != "truth" or config.tasks.edition != "full")
        and not _measured(evaluation, probe, config)
    ]


def _measured(evaluation: Evaluation, probe: str, config: RunConfig) -> bool:
    """Whether a probe is done, of as many answers and with the seed that the configuration asks for."""
    stage, protocol = evaluation.probe(probe), get_protocol(config.tasks.protocol)
    asked = sampling(probe, config.tasks.probe_samples, protocol, config.generate.seeds[0])
    known = stage.info().get("settings", {})
    return stage.marked() and all(known.get(name) == value for name, value in asked.items())
