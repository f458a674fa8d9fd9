"""The report of one run: card, scores, figures, cost, samples, provenance.

A report is a pure function of the run folder and of the finished runs beside it: equal folders give
equal bytes. What is missing is named with its reason.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.inside import inside
from kdbench.harness.files.records import Estimate, Missing, Summary
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import write_text
from kdbench.harness.metrics import info, rank
from kdbench.reports.columns import TASK_ORDER, Entry, Value, judged_values, probe_values
from kdbench.reports.figures import Drawable, Plot, save
from kdbench.reports.figures.probes import exposure_curves, reliability
from kdbench.reports.figures.scores import CostPoint, cost_by_stage, length_buckets, quality_cost
from kdbench.reports.figures.training import training_curves, training_details
from kdbench.reports.run import parts
from kdbench.reports.run.samples import samples
from kdbench.reports.run.subject import Stage, Subject, read_subject
from kdbench.reports.runs import Run
from kdbench.reports.text import document as doc
from kdbench.reports.text.html import write_html
from kdbench.reports.text.markdown import Markdown
from kdbench.reports.text.style import value_cell

UNTRAINED = Missing(missing="nothing was trained: this folder holds an evaluated model")
UNTESTED = "Mean [95% interval over prompts]; no difference is tested here, see: kdbench compare."


class Report(NamedTuple):
    """What `write_report` made."""

    files: list[Path]
    left_out: dict[str, str]
    """Figure that could not be drawn -> why."""
    missing: list[Stage]
    """Stages of the run that are not done."""


def write_report(folder: Path | str, out: Path | str | None = None) -> Report:
    """Writes report.md, report.html and figures/ for a run, finished or not.

    Args:
        folder: the run folder.
        out: where to write; None: into the run folder.

    Raises:
        InputError: no run folder, a file of it cannot be read, ``out`` cannot be written, or there is
            none and the run came in a bundle.
    """
    run = RunFolder(Path(folder))
    if out is None and run.left_out.exists():
        raise InputError(
            f"{run.name} came in a bundle, into which no report is written; name a folder with --out"
        )
    subject = read_subject(run)
    target = run.report() if out is None else Path(out)
    files: list[Path] = []
    left_out: dict[str, str] = {}
    pictures: dict[str, doc.Part] = {}
    images: dict[str, bytes] = {}
    drawn = figures_of(subject)
    for name, (title, drawable) in drawn.items():
        if isinstance(drawable, Plot):
            pictures[name] = doc.Picture(name, title, drawable.caption)
        else:
            left_out[name] = drawable.missing
            pictures[name] = doc.Paragraph(f"{title}: left out, {drawable.missing}.", note=True)
    document = doc.Document(parts.title(subject.run.summary), _sections(subject, pictures))
    for name, (_, drawable) in drawn.items():  # once all of the run was read
        if isinstance(drawable, Plot):
            written = save(drawable, inside(target / "figures", name))
            files += written
            images[name] = written[0].read_bytes()
    for path, text in (
        (target / "report.md", Markdown().write(document)),
        (target / "report.html", write_html(document, images)),
    ):
        write_text(path, text)
        files.insert(0, path)
    return Report(files, left_out, subject.missing)


# -- the run's evaluations, and those of other models that are alike -------------------------------


def _models(subject: Subject) -> dict[str, Run]:
    """The run itself, then teacher, init and truth, by label."""
    return {subject.run.summary.run.method: subject.run, **subject.references}


def _alike(models: Mapping[str, Run], key: str) -> dict[str, Entry]:
    """The first model's evaluation ``key``, and those of others that share its column."""
    (label, own), *others = models.items()
    found = {label: Entry(own, key, _values(own.summary, key))}
    column = own.summary.scores[key].column if key in own.summary.scores else None
    for label, run in others:
        for name, scores in sorted(run.summary.scores.items()):
            if scores.column == column:
                found.setdefault(label, Entry(run, name, _values(run.summary, name)))
    return found


def _values(summary: Summary, key: str) -> dict[str, Value]:
    """Metrics of one evaluation by name; a judge's are followed by a blank and its id."""
    found: dict[str, Value] = {}
    if key in summary.scores:
        found |= summary.scores[key].metrics
    found |= probe_values(summary.probes.get(key, {}))
    for judge, metrics in judged_values(summary, key):
        found |= {f"{name} {judge}": value for name, value in metrics.items()}
    return found


def _probe(alike: Mapping[str, Entry], probe: str) -> dict[str, dict[str, object]]:
    """A probe's report of every model that has it, if the first one has."""
    reports = {label: e.run.summary.probes.get(e.key, {}) for label, e in alike.items()}
    found = {label: report[probe] for label, report in reports.items() if probe in report}
    return found if next(iter(alike)) in found else {}


def _ordered(summary: Summary) -> list[str]:
    """Evaluation keys, the usual tasks first."""
    tasks = [*TASK_ORDER, *(scores.task for scores in summary.scores.values())]
    usual = len(TASK_ORDER)
    place = {key: min(tasks.index(s.task), usual) for key, s in summary.scores.items()}
    return sorted(place, key=lambda key: (place[key], key))


def _heading(summary: Summary, key: str) -> str:
    """Task and edition; protocol, then the key's digits too, where that names several evaluations."""
    if key not in summary.scores:
        return key
    names = {k: f"{s.task}[{s.edition}]" for k, s in summary.scores.items()}
    if list(names.values()).count(names[key]) > 1:
        names = {k: f"{name} {summary.scores[k].protocol}" for k, name in names.items()}
    if list(names.values()).count(names[key]) > 1:
        names[key] += f" @{key.rpartition('@')[2]}"
    return names[key]


# -- figures --------------------------------------------------------------------------------------


def figures_of(subject: Subject) -> dict[str, tuple[str, Drawable]]:
    """Every figure of a report by file name, with its title."""
    summary, training = subject.run.summary, subject.run.folder.training
    trained = summary.run.kind == "run"
    rows, best = training.log(), training.stage.info().get("best_step")
    points = _cost_points(subject)
    return {
        "training": ("Training", training_curves(rows, best) if trained else UNTRAINED),
        "training-details": (
            "Training in detail",
            training_details(rows) if trained else UNTRAINED,
        ),
        "length-buckets": ("Score by reference length", length_buckets(_texts(subject))),
        **_probe_figures(subject),
        "quality-cost": ("Quality against cost", quality_cost(points) if trained else UNTRAINED),
        "cost": ("Cost by stage", cost_by_stage(summary.cost)),
    }


def _texts(subject: Subject) -> dict[str, dict[str, dict[str, object]]]:
    """Model -> task -> its text report, for the evaluations that the run has."""
    summary, models = subject.run.summary, _models(subject)
    found: dict[str, dict[str, dict[str, object]]] = {label: {} for label in models}
    for key in _ordered(summary):
        for label, report in _probe(_alike(models, key), "text").items():
            found[label][_heading(summary, key)] = report
    return found


def _probe_figures(subject: Subject) -> dict[str, tuple[str, Drawable]]:
    """Exposure bias, then reliability, of each evaluation where they were measured."""
    summary, models = subject.run.summary, _models(subject)
    found: dict[str, tuple[str, Drawable]] = {}
    for stem, title, probe, draw in (
        ("exposure", "Exposure bias", "exposure", exposure_curves),
        ("reliability", "Reliability", "calibration", reliability),
    ):
        drawn: dict[str, tuple[str, Drawable]] = {}
        for key in summary.probes:
            if reports := _probe(_alike(models, key), probe):
                heading = f"{title}: {_heading(summary, key)}"
                drawn[f"{stem}-{key.replace('@', '-')}"] = heading, draw(reports)
        found |= drawn or {stem: (title, draw({}))}
    return found


def _cost_points(subject: Subject) -> list[CostPoint]:
    """ROUGE-L and training time of each rival, and ROUGE-L of models that were not trained here."""
    summary = subject.run.summary
    rivals = [run for run in subject.rivals if "train" in run.summary.cost]
    others = [*rivals, *subject.references.values()]
    models = {run.folder.name: run for run in [subject.run, *others]}
    found = []
    for key in _ordered(summary):
        alike, task = _alike(models, key), _heading(summary, key)
        for run in others:
            entry, card = alike.get(run.folder.name), run.summary.run
            value = entry.metrics.get("rouge_l") if entry else None
            if isinstance(value, Estimate):
                bounds = value.mean, value.low, value.high
                cost = run.summary.cost["train"].wall_s if run in rivals else None
                found.append(CostPoint(card.method, card.id, task, *bounds, cost))
    return found


# -- text -----------------------------------------------------------------------------------------


def _sections(subject: Subject, pictures: Mapping[str, doc.Part]) -> list[doc.Section]:
    def drawn(*prefixes: str) -> list[doc.Part]:
        return [part for name, part in pictures.items() if name.startswith(prefixes)]

    run, summary = subject.run, subject.run.summary
    manifest = run.folder.manifest.find()
    learned = [doc.Table(["dev set", "value"], parts.learned(summary))] if summary.learned else []
    selected = summary.run.selection
    chosen = [doc.Paragraph(f"The student was selected by {selected}.")] if selected else []
    stages = [[stage.name, stage.missing or "done"] for stage in subject.stages]
    head = ["stage", "time", "tokens", "peak memory"]
    spent = [doc.Table(head, parts.costs([summary.cost]), right=(1, 3))] if summary.cost else []
    made = [
        doc.Section("Run", [_state(subject), parts.origin(summary)]),
        doc.Section(
            "Scores", [*_scores(subject), *parts.signature(summary), *drawn("length-buckets")]
        ),
        doc.Section("Training", [*chosen, *learned, *drawn("training")]),
        doc.Section("Exposure bias and calibration", drawn("exposure", "reliability")),
        doc.Section("Cost", [*spent, *drawn("cost", "quality-cost")]),
        doc.Section("Samples", _samples(subject) or [doc.Paragraph("No answers are stored.")]),
        doc.Section("Stages", [doc.Table(["stage", "state"], stages)]),
    ]
    if manifest:
        made.append(doc.Section("Provenance", [parts.provenance(manifest)]))
        made.append(doc.Section("To reproduce", parts.reproduction(manifest)))
    return made


def _state(subject: Subject) -> doc.Paragraph:
    if not subject.missing:
        return doc.Paragraph("Finished: every stage is done.")
    missing = "; ".join(f"{stage.name}: {stage.missing}" for stage in subject.missing)
    return doc.Paragraph(f"Not finished. Missing: {missing}.")


def _scores(subject: Subject) -> list[doc.Part]:
    """Scores, probes and judges of the run, with teacher, init and truth beside."""
    summary, models = subject.run.summary, _models(subject)
    rows: list[list[doc.Cell]] = []
    for key in _ordered(summary):
        scores, alike = summary.scores[key], _alike(models, key)
        own = next(iter(alike.values())).metrics
        task = f"{scores.task}[{scores.edition}] {scores.protocol}"
        for name in sorted(own, key=lambda name: rank(name.partition(" ")[0])):
            metric, _, judge = name.partition(" ")
            title = info(metric).label + (f" ({judge})" if judge else "")
            values = [_value(alike.get(label), name) for label in models]
            rows.append([task, title, *values, str(getattr(own[name], "n_prompts", 0) or "")])
    if not rows:
        return [doc.Paragraph("Nothing was evaluated.")]
    head = ["task", "metric", *models, "prompts"]
    return [doc.Table(head, rows, right=tuple(range(2, len(head)))), doc.Notes([UNTESTED])]


def _value(entry: Entry | None, name: str) -> doc.Cell:
    absent = Missing(missing="not measured")
    value = entry.metrics.get(name, absent) if entry else absent
    return value_cell(value, name.partition(" ")[0])


def _samples(subject: Subject) -> list[doc.Part]:
    found: list[doc.Part] = []
    for key in _ordered(subject.run.summary):
        alike = {label: entry.evaluation for label, entry in _alike(_models(subject), key).items()}
        if next(iter(alike.values())).generated.done():
            found += samples(_heading(subject.run.summary, key), alike)
    return found
