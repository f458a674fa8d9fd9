"""What a run folder holds so far, finished or not, and the runs beside it that belong with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Manifest, PrepareRecord, RunCard, Summary, TrainRow
from kdbench.harness.files.store import is_done, read_json, read_marker, read_record, read_records
from kdbench.reports.card import model_name, read_manifest
from kdbench.reports.load import Run, read_summary


class Stage(NamedTuple):
    """One stage of a run; ``missing`` says what is not there, and is empty when it is done."""

    name: str
    missing: str


class RunFiles(NamedTuple):
    """A run folder as read."""

    folder: Path
    config: dict[str, Any]
    prepare: PrepareRecord | None
    summary: Summary
    """As stored; of a run without one yet, what its configuration says."""
    manifest: Manifest | None
    training: list[TrainRow]
    best_step: int | None
    stages: list[Stage]
    references: dict[str, Run]
    """Teacher, init and truth as evaluated beside this run, by the label of their row."""
    rivals: list[Run]
    """Trained runs of the same suite and pair beside this one, itself included, by folder."""

    @property
    def missing(self) -> list[Stage]:
        """Stages that are not done."""
        return [stage for stage in self.stages if stage.missing]


def read_run(folder: Path) -> RunFiles:
    """Everything a report of ``folder`` is made from.

    Raises:
        InputError: no run folder, or a file of it cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is no run folder (no config.json); see: kdbench ls runs")
    config = read_json(path)
    prepared = folder / "prepare.json"
    prepare = read_record(prepared, PrepareRecord) if prepared.is_file() else None
    stored = (folder / "summary.json").is_file()
    summary = read_summary(folder) if stored else _unfinished(folder, config, prepare)
    marker = read_marker(folder / "train", "train")
    beside = list(_beside(folder)) if stored else []
    return RunFiles(
        folder=folder,
        config=config,
        prepare=prepare,
        summary=summary,
        manifest=read_manifest(folder),
        training=read_records(folder / "train" / "metrics.jsonl", TrainRow),
        best_step=marker.info["best_step"] if marker else None,
        stages=_stages(folder, config, summary),
        references=_references(summary, prepare, beside),
        rivals=_rivals(Run(folder, summary), beside),
    )


def _unfinished(folder: Path, config: dict[str, Any], prepare: PrepareRecord | None) -> Summary:
    trained = (folder / "prepare.json").is_file() or (folder / "train").is_dir()
    name, _, identifier = folder.name.rpartition("-")
    try:
        card = RunCard(
            id=identifier,
            kind="run" if trained or not name.startswith("eval-") else "eval",
            method=config["method"]["name"],
            suite=config["suite"],
            regime=config["regime"],
            teacher=prepare.teacher if prepare else None,
            student=None,
            training_seed=config["train"]["seed"],
            division="closed" if config["regime"] == "matched" else "open",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}/config.json is no run's; the file was changed") from error
    return Summary(run=card)


def _stages(folder: Path, config: dict[str, Any], summary: Summary) -> list[Stage]:
    found = []
    if summary.run.kind == "run":
        prepared = (folder / "prepare.json").is_file()
        found.append(Stage("prepare", "" if prepared else "not begun"))
        steps = len(read_records(folder / "train" / "metrics.jsonl", TrainRow))
        begun = f"not finished ({steps} steps logged)" if steps else "not begun"
        found.append(Stage("train", "" if is_done(folder / "train", "train") else begun))
    evaluations = {path: path.name.partition("@")[0] for path in sorted(folder.glob("eval/*@*"))}
    tasks = list(dict.fromkeys([*config["tasks"]["names"], *evaluations.values()]))
    for task in tasks:
        outs = [path for path, name in evaluations.items() if name == task]
        undone = [path for path in outs if not is_done(path, "score")]
        missing = f"{undone[0].name} is not finished" if undone else ""
        found.append(Stage(f"evaluate {task}", missing if outs else "not begun"))
    for probe in config["tasks"].get("probes", ()):
        done = any(is_done(path, f"probe-{probe}") for path in evaluations)
        # the truth is no model: most probes have nothing to measure there
        if summary.run.student is not None or summary.run.kind == "run":
            found.append(Stage(f"probe {probe}", "" if done else "not measured"))
    stored = (folder / "summary.json").is_file()
    found.append(Stage("summarise", "" if stored else "no summary.json yet"))
    return found


def _beside(folder: Path) -> Iterator[Run]:
    """Finished runs in the same folder of runs; one that cannot be read is not ours to report."""
    for other in sorted(folder.resolve().parent.iterdir()):
        if (other / "summary.json").is_file():
            try:
                yield Run(other, read_summary(other))
            except InputError:
                continue


def _references(
    summary: Summary, prepare: PrepareRecord | None, beside: list[Run]
) -> dict[str, Run]:
    """Evaluated models that are this run's teacher or init by content, and the world's truth."""
    wanted = {model.fingerprint for model in (summary.run.teacher,) if model}
    if prepare and prepare.init:
        wanted.add(prepare.init.fingerprint)
    found: dict[str, Run] = {}
    for run in beside:
        card = run.summary.run
        truth = card.method == "truth" and card.student is None
        fits = truth or (card.student is not None and card.student.fingerprint in wanted)
        if card.kind == "eval" and card.suite == summary.run.suite and fits:
            found.setdefault(card.method, run)
    order = {"truth": 2, "teacher": 0}
    mine = summary.run.method
    kept = sorted(found, key=lambda label: (order.get(label, 1), label))
    return {label: found[label] for label in kept if label != mine}


def _rivals(run: Run, beside: list[Run]) -> list[Run]:
    def pair(card: RunCard) -> tuple[str, ...]:
        teacher = card.teacher.fingerprint if card.teacher else ""
        return card.kind, card.suite, teacher, model_name(card.student.name) if card.student else ""

    mine = run.folder.resolve()
    others = [
        r for r in beside if r.folder != mine and pair(r.summary.run) == pair(run.summary.run)
    ]
    if run.summary.run.kind != "run":
        return []
    return sorted([Run(mine, run.summary), *others], key=lambda r: r.folder.name)
