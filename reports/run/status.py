"""How far a run is, read from its folder and nothing else: state, step, time left, score."""

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from kdbench.harness.config import TrainConfig
from kdbench.harness.errors import InputError
from kdbench.harness.files.locks import lock_holder, was_killed
from kdbench.harness.files.records import Estimate, Summary, TrainRow
from kdbench.harness.files.run_folder import RunFolder, Training
from kdbench.harness.files.run_log import last_end, last_line
from kdbench.harness.metrics import info, rank
from kdbench.harness.progress import duration
from kdbench.reports.text.document import Cell, Document, Notes, Section, Table
from kdbench.reports.text.style import development_label, number

State = Literal["running", "crashed", "interrupted", "unfinished", "done", "not readable"]
TAIL = 65_536
"""Bytes of the end of a training's log that are looked at."""
SEEDS = ("seed", "init_seed")
COMPARED = ("pair", "data", "train", "init_sft", "teacher_sft", "generate")
"""Sections of a configuration whose differing settings are listed, beside the method's own."""
NAMED = 5
"""Settings of a run that a table names."""
Facts = dict[str, Any]


class Status(NamedTuple):
    """How far a run is.

    Attributes:
        run: its name.
        state: running (a live process holds it), crashed (an error, or killed), interrupted (Ctrl-C,
            SIGTERM), done, or unfinished (none of these).
        about: who runs it, or why it ended.
        step, steps: of its training; ``steps``: None where tokens end it.
        share: of its budget that is used, 0 to 1.
        left_s: seconds of training left by the pace of the last steps; of a running one.
        score: the mean of its first main metric, else the last on the development set.
        settings: in which it differs from runs of its suite and method beside it.
        facts: method, student, suite, seed, evaluations and when it was begun.
    """

    run: str
    state: State
    about: str
    step: int | None
    steps: int | None
    share: float
    left_s: float | None
    score: str
    settings: dict[str, Any]
    facts: Facts

    def plain(self) -> Facts:
        """As one flat mapping, for programs."""
        found = {"run": self.run, **self.facts, **self._asdict()}
        del found["facts"]
        return found


def statuses(runs: Sequence[RunFolder]) -> list[Status]:
    """How far each run is, oldest first; in which settings runs alike differ."""
    trees = {run.path: {} if _evaluation(run) else _tree(run) for run in runs}
    settings = differing([trees[run.path] for run in runs])
    found = [
        status_of(run, trees[run.path], differ)
        for run, differ in zip(runs, settings, strict=True)
        if run.began() is not None
    ]
    return sorted(found, key=lambda each: each.facts["begun"])


def status_of(run: RunFolder, tree: Facts, settings: Mapping[str, Any] = {}) -> Status:
    """How far one run is.

    Args:
        run: the run.
        tree: its configuration; empty if that cannot be read.
        settings: as of `Status`.
    """
    facts = _facts(run, tree)
    try:
        rows, summary = recent(run.training), run.summary.find()
        state, about = _state(run, summary)
        facts["evaluations"] = [evaluation.task for evaluation in run.evaluations()]
        train, steps = _recipe(run, tree)
    except InputError as error:
        return Status(run.name, "not readable", str(error), None, None, 0, None, "", {}, facts)
    step = rows[-1].step if rows else None
    share = _share(rows[-1], train, steps) if rows and train else 0.0
    left = _left(rows, train, steps) if state == "running" and train else None
    score = _score(summary) or _development(rows)
    return Status(run.name, state, about, step, steps, share, left, score, dict(settings), facts)


def _evaluation(run: RunFolder) -> bool:
    return run.name.startswith("eval-")


def _tree(run: RunFolder) -> Facts:
    with contextlib.suppress(InputError):
        stored = run.config.find()
        return stored.tree() if stored else {}
    return {}


def _facts(run: RunFolder, tree: Facts) -> Facts:
    """Who it is; an evaluation of a model that no run of ours made has a label for its method."""
    found: Facts = dict.fromkeys(("method", "student", "suite", "seed"))
    tree = tree or _tree(run)
    with contextlib.suppress(KeyError, TypeError):
        found = {
            "method": tree["method"]["name"],
            "student": tree["pair"]["student"],
            "suite": tree["suite"],
            "seed": tree["train"]["seed"],
        }
    if _evaluation(run):
        label = run.name.removeprefix("eval-").rpartition("-")[0]
        found |= {"method": label, "seed": None}
    return found | {"evaluations": [], "begun": run.began()}


def _state(run: RunFolder, summary: Summary | None) -> tuple[State, str]:
    holder = lock_holder(run.path)
    if holder is not None:
        doing = last_line(run.path)
        return "running", f"process {holder.pid} on {holder.host}{doing and f': {doing}'}"
    killed, end = was_killed(run.path), last_end(run.path)
    why = "killed" if killed else f"{end.said}" if end and end.how == "failed" else ""
    if summary is not None and (summary.scores or (end and end.how == "done")):
        return "done", f"last command failed: {why}" if why else ""
    if why:
        return "crashed", why
    if end is not None and end.how == "interrupted":
        return "interrupted", f"at {end.when}"
    stages = run.stages()
    return "unfinished", f"stopped after {stages[-1]}" if stages else ""


def recent(training: Training) -> list[TrainRow]:
    """The last logged steps of a training; the rows before are not read."""
    path = training.log_file
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        start = max(0, path.stat().st_size - TAIL)
        file.seek(start)
        lines = file.read().split(b"\n")[bool(start) : -1]
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, ValidationError):
            rows.append(TrainRow.model_validate(json.loads(line)))
    return rows


def _recipe(run: RunFolder, tree: Facts) -> tuple[TrainConfig | None, int | None]:
    """How it trains and in how many steps, as far as its folder says."""
    prepared = run.prepare.find()
    try:
        train = TrainConfig.model_validate(tree["train"])
    except (KeyError, ValidationError):
        return None, None
    kept = (prepared.data.get("train") or {}).get("kept") if prepared else None
    if kept is None and train.epochs is not None:
        return train, None
    return train, train.steps_of(kept or 0)


def _share(row: TrainRow, train: TrainConfig, steps: int | None) -> float:
    pairs = (row.step, steps), (row.tokens.get("response", 0), train.response_tokens)
    return min(1.0, max((used / budget for used, budget in pairs if budget), default=0.0))


def _left(rows: Sequence[TrainRow], train: TrainConfig, steps: int | None) -> float | None:
    """By the pace of the last steps: seconds of other processes before them are not in it."""
    if len(rows) < 2:
        return None
    done = _share(rows[-1], train, steps)
    gained, spent = done - _share(rows[0], train, steps), rows[-1].wall_s - rows[0].wall_s
    return (1 - done) * spent / gained if gained > 0 and spent > 0 else None


def _score(summary: Summary | None) -> str:
    """The mean of the first main metric over the evaluations that have it."""
    found: dict[str, list[float]] = defaultdict(list)
    for scores in summary.scores.values() if summary else ():
        for metric, value in scores.metrics.items():
            if isinstance(value, Estimate) and info(metric).headline:
                found[metric].append(value.mean)
    if not found:
        return ""
    metric = min(found, key=rank)
    means = found[metric]
    over = f" over {len(means)}" if len(means) > 1 else ""
    return f"{info(metric).label} {number(math.fsum(means) / len(means), metric)}{over}"


def _development(rows: Sequence[TrainRow]) -> str:
    last = next((row for row in reversed(rows) if row.evaluation), None)
    if last is None:
        return ""
    name = "dev_rouge_l" if "dev_rouge_l" in last.evaluation else next(iter(last.evaluation))
    return f"{development_label(name)} {last.evaluation[name]:.3g} at {last.step}"


# -- settings -------------------------------------------------------------------------------------


def differing(trees: Sequence[Facts]) -> list[dict[str, Any]]:
    """Of each configuration the settings in which those of its suite and method differ, seeds apart."""
    flat = [dict(_flat(tree)) for tree in trees]
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, tree in enumerate(trees):
        groups[tree.get("suite"), (tree.get("method") or {}).get("name")].append(place)
    found: list[dict[str, Any]] = [{} for _ in trees]
    for places in groups.values():
        for key in dict.fromkeys(key for place in places for key in flat[place]):
            values = [flat[place].get(key) for place in places]
            if any(value != values[0] for value in values):
                for place, value in zip(places, values, strict=True):
                    found[place][key] = value
    return found


def _flat(tree: Facts) -> Iterator[tuple[str, Any]]:
    sections = {name: tree.get(name) or {} for name in COMPARED}
    sections["method"] = (tree.get("method") or {}).get("options") or {}
    for section, values in sections.items():
        for key, value in values.items():
            if key not in SEEDS:
                yield f"{section}.{key}", value


# -- as a document --------------------------------------------------------------------------------


def status_document(found: Sequence[Status]) -> Document:
    """A row a run, and under it why runs ended that are not done."""
    head = ["run", "state", "step", "left", "score", "begun", "settings that differ"]
    rows: list[list[Cell]] = [
        [
            each.run,
            each.state,
            step_text(each),
            left_text(each),
            each.score,
            datetime.fromtimestamp(each.facts["begun"]).strftime("%m-%d %H:%M"),
            settings_text(each),
        ]
        for each in found
    ]
    used = [0, 1, *(i for i in range(2, len(head)) if any(row[i] for row in rows))]
    table = Table([head[i] for i in used], [[row[i] for i in used] for row in rows])
    notes = [f"{each.run}: {each.about}" for each in found if each.about]
    return Document("", [Section("", [table, *([Notes(notes)] if notes else [])])])


def step_text(status: Status) -> str:
    """``400/750``, or the share of the budget where that is no number of steps."""
    if status.step is None:
        return ""
    if status.steps:
        return f"{status.step}/{status.steps}"
    return f"{status.step} ({status.share:.0%})" if status.share else str(status.step)


def left_text(status: Status) -> str:
    """About how long the training goes on."""
    return duration(status.left_s) if status.left_s else ""


def settings_text(status: Status) -> str:
    """The first few, as they are set."""
    said = [f"{key.removeprefix('method.')}={_brief(v)}" for key, v in status.settings.items()]
    return ", ".join([*said[:NAMED], *(["…"] if len(said) > NAMED else [])])


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.rstrip("/").rpartition("/")[2][:30]
