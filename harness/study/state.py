"""How far a run is, judged by our own markers only: no scheduler's word counts."""

from pathlib import Path
from typing import Literal, NamedTuple

from kdbench.harness.config import RunConfig, unstated
from kdbench.harness.contents import Circumstances, Identified, recall
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.files.records import DecodingRecord, EvaluationRecord
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.study.definition import Cell

How = Literal["to do", "partial", "cached"]


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


def state_of(cell: Cell, place: Place) -> State:
    """Looks a cell's run up; its id is unknown until a run of the same pair and data was begun."""
    identity = recall(place.where, cell.config)
    if identity is None:
        return State("to do", None, None)
    run = RunFolder(place.runs_dir / identity.name)
    if not run.config.exists():
        return State("to do", identity, run)
    missing = tuple(missing_of(run, identity.config))
    return State("partial" if missing else "cached", identity, run, missing)


def missing_of(run: RunFolder, config: RunConfig) -> list[str]:
    """What ``kdbench run`` with this configuration would still do in a run folder."""
    try:
        if not run.marked():
            return ["training"]
        summarised = run.summary.read().scores
        stored = [e for e in run.evaluations() if e.key in summarised and e.record.exists()]
        records = [(e, e.record.read()) for e in stored]
    except InputError:
        return ["summary"]
    missing = ["how it was tuned"] if unstated(run.config.read().tree(), config) else []
    asked = tasks_of(config.tasks) if config.tasks.names else []
    texts = [task.name for task in asked if task.kind in ("text", "file")]
    for way in config.generate.ways:
        each = config.model_copy(update={"generate": way})
        found = {e.task: e for e, record in records if _fits(record, each)}
        first = way is config.generate
        for task in asked if first else [t for t in asked if t.kind in ("text", "file")]:
            evaluation = found.get(task.name)
            if evaluation is None or not evaluation.scored.marked():
                missing.append(task.name if first else f"{task.name} greedy")
            elif first and task.name in texts:
                missing += _unmeasured(evaluation, config, texts)
    return missing


def _fits(record: EvaluationRecord, config: RunConfig) -> bool:
    """Whether an evaluation is the one that a configuration asks for."""
    generate, tasks = config.generate, config.tasks
    if record.limit != tasks.limit:
        return False
    if record.source == "lm-eval" or record.decoding is None:
        return True
    wanted = {
        "protocol": tasks.protocol,
        "template": config.task_template,
        "max_prompt": config.train.max_prompt,
        "engine": generate.engine,
        "batch_size": generate.batch_size,
        "chunk": generate.chunk,
        "seeds": list(generate.seeds),
    }
    drawn = generate.model_dump(include=set(DecodingRecord.model_fields), exclude_none=True)
    return (
        record.edition.partition(":")[0] in (tasks.edition, "file")
        and all(getattr(record, name) == value for name, value in wanted.items())
        and drawn.items() <= record.decoding.model_dump().items()
    )


def _unmeasured(evaluation: Evaluation, config: RunConfig, tasks: list[str]) -> list[str]:
    """Probes that a task still gets: exposure on one task only, the truth where it is known."""
    exposed = "dolly" if "dolly" in tasks else tasks[0]
    return [
        f"{probe} of {evaluation.task}"
        for probe in config.tasks.probes
        if (probe != "exposure" or evaluation.task == exposed)
        and (probe != "truth" or config.tasks.edition != "full")
        and not evaluation.probe(probe).marked()
    ]
