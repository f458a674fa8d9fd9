"""The report of one run: card, scores, figures, cost, samples, provenance.

A report is a pure function of the run folder and of the finished runs beside it: equal folders give
equal bytes. What is missing is named with its reason.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.files.records import Estimate, Missing, Summary
from kdbench.harness.files.store import is_done, write_text
from kdbench.harness.metrics import info, rank
from kdbench.reports import card
from kdbench.reports.columns import TASK_ORDER
from kdbench.reports.figures import Drawable, Plot, save
from kdbench.reports.figures.cost import cost_by_stage
from kdbench.reports.figures.probes import exposure_curves, reliability
from kdbench.reports.figures.scores import CostPoint, length_buckets, quality_cost
from kdbench.reports.figures.training import training_curves, training_details
from kdbench.reports.measured import Value, judged_values, probe_values
from kdbench.reports.run_files import RunFiles, Stage, read_run
from kdbench.reports.run_samples import samples
from kdbench.reports.text.document import Cell, Document, Paragraph, Part, Picture, Section, Table
from kdbench.reports.text.html import write_html
from kdbench.reports.text.markdown import Markdown
from kdbench.reports.text.style import number

UNTRAINED = Missing(missing="nothing was trained: this folder holds an evaluated model")


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
        out: where to write; None: ``<folder>/report``.

    Raises:
        InputError: no run folder, a file of it cannot be read, or ``out`` cannot be written.
    """
    run = read_run(Path(folder))
    target = Path(folder) / "report" if out is None else Path(out)
    files: list[Path] = []
    left_out: dict[str, str] = {}
    pictures: dict[str, Part] = {}
    images: dict[str, bytes] = {}
    for name, (title, drawable) in figures_of(run).items():
        if isinstance(drawable, Plot):
            written = save(drawable, target / "figures" / name)
            files += written
            images[name] = written[0].read_bytes()
            pictures[name] = Picture(name, title, drawable.caption)
        else:
            left_out[name] = drawable.missing
            pictures[name] = Paragraph(f"{title}: left out, {drawable.missing}.", note=True)
    document = Document(card.title(run.summary), _sections(run, pictures))
    for path, text in (
        (target / "report.md", Markdown().write(document)),
        (target / "report.html", write_html(document, images)),
    ):
        write_text(path, text)
        files.insert(0, path)
    return Report(files, left_out, run.missing)


# -- figures --------------------------------------------------------------------------------------


def figures_of(run: RunFiles) -> dict[str, tuple[str, Drawable]]:
    """Every figure of a report by file name, with its title."""
    series = {_label(run): run.summary, **{k: r.summary for k, r in run.references.items()}}
    trained = run.summary.run.kind == "run"
    curves = training_curves(run.training, run.best_step) if trained else UNTRAINED
    details = training_details(run.training) if trained else UNTRAINED
    found: dict[str, tuple[str, Drawable]] = {
        "training": ("Training", curves),
        "training-details": ("Training in detail", details),
        "length-buckets": ("Score by reference length", length_buckets(_texts(series))),
    }
    exposures: dict[str, tuple[str, Drawable]] = {}
    reliabilities: dict[str, tuple[str, Drawable]] = {}
    for key in run.summary.probes:
        title = _heading(run.summary, key)
        exposed = _probe(series, key, "exposure")
        if exposed:
            exposures[f"exposure-{_slug(key)}"] = (
                f"Exposure bias: {title}",
                exposure_curves(exposed),
            )
        calibrated = _probe(series, key, "calibration")
        if calibrated:
            name = f"reliability-{_slug(key)}"
            reliabilities[name] = (f"Reliability: {title}", reliability(calibrated))
    found |= exposures or {"exposure": ("Exposure bias", exposure_curves({}))}
    found |= reliabilities or {"reliability": ("Reliability", reliability({}))}
    points = _cost_points(run) if trained else []
    found["quality-cost"] = (
        "Quality against cost",
        quality_cost(points) if trained else UNTRAINED,
    )
    found["cost"] = ("Cost by stage", cost_by_stage(run.summary.cost))
    return found


def _label(run: RunFiles) -> str:
    return run.summary.run.method


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


def _slug(key: str) -> str:
    return key.replace("@", "-")


def _texts(series: Mapping[str, Summary]) -> dict[str, dict[str, dict[str, object]]]:
    """Series -> task -> its text report, for the evaluations that the first series has."""
    first = next(iter(series.values()))
    keys = [key for key in _ordered(first) if "text" in first.probes.get(key, {})]
    return {
        name: {
            _heading(first, key): summary.probes[key]["text"]
            for key in keys
            if "text" in summary.probes.get(key, {})
        }
        for name, summary in series.items()
    }


def _ordered(summary: Summary) -> list[str]:
    """Evaluation keys, the usual tasks first."""

    def place(key: str) -> tuple[int, str]:
        task = key.partition("@")[0]
        return (TASK_ORDER.index(task) if task in TASK_ORDER else len(TASK_ORDER), key)

    return sorted(summary.scores, key=place)


def _probe(series: Mapping[str, Summary], key: str, probe: str) -> dict[str, dict[str, object]]:
    """A probe's report of every series that has it, if the first one has."""
    found = {
        name: summary.probes[key][probe]
        for name, summary in series.items()
        if probe in summary.probes.get(key, {})
    }
    return found if next(iter(series)) in found else {}


def _cost_points(run: RunFiles) -> list[CostPoint]:
    models = [
        (r.summary.run.method, r.summary, r.summary.cost["train"].wall_s)
        for r in run.rivals
        if "train" in r.summary.cost
    ]
    level = [(label, r.summary, None) for label, r in run.references.items()]
    found = []
    for key in _ordered(run.summary):
        for series, summary, cost in [*models, *level]:
            value = summary.scores[key].metrics.get("rouge_l") if key in summary.scores else None
            if isinstance(value, Estimate):
                found.append(
                    CostPoint(
                        series=series,
                        run=summary.run.id,
                        task=_heading(run.summary, key),
                        mean=value.mean,
                        low=value.low,
                        high=value.high,
                        cost=cost,
                    )
                )
    return found


# -- text -----------------------------------------------------------------------------------------


def _sections(run: RunFiles, pictures: Mapping[str, Part]) -> list[Section]:
    def drawn(*prefixes: str) -> list[Part]:
        return [p for n, p in pictures.items() if any(n.startswith(start) for start in prefixes)]

    summary = run.summary
    learned = [card.learning(summary)] if summary.learned else []
    spent = [card.cost(summary)] if summary.cost else []
    shown = _samples(run)
    return [
        Section("Run", [_state(run), card.identity(summary)]),
        Section("Scores", [*_scores(run), *card.signature(summary), *drawn("length-buckets")]),
        Section("Training", [*learned, *drawn("training")]),
        Section("Exposure bias and calibration", drawn("exposure", "reliability")),
        Section("Cost", [*spent, *drawn("cost", "quality-cost")]),
        Section("Samples", shown or [Paragraph("No answers are stored.")]),
        Section("Stages", [_stages(run)]),
        *(card.provenance(run.manifest) if run.manifest else []),
    ]


def _state(run: RunFiles) -> Paragraph:
    if not run.missing:
        return Paragraph("Finished: every stage is done.")
    missing = "; ".join(f"{stage.name}: {stage.missing}" for stage in run.missing)
    return Paragraph(f"Not finished. Missing: {missing}.")


def _stages(run: RunFiles) -> Table:
    return Table(["stage", "state"], [[s.name, s.missing or "done"] for s in run.stages])


def _scores(run: RunFiles) -> list[Part]:
    """Scores, probes and judges of the run, with teacher, init and truth beside."""
    summaries = [run.summary, *(r.summary for r in run.references.values())]
    rows: list[list[Cell]] = []
    for key in _ordered(run.summary):
        values = [_values(summary, key) for summary in summaries]
        scores = run.summary.scores[key]
        for name in sorted(values[0], key=lambda name: rank(name.partition(" ")[0])):
            metric, _, judge = name.partition(" ")
            label = info(metric).label + (f" ({judge})" if judge else "")
            own = values[0][name]
            rows.append(
                [
                    f"{scores.task}[{scores.edition}] {scores.protocol}",
                    label,
                    *(_value(found.get(name), metric) for found in values),
                    "" if isinstance(own, Missing) or not own.n_prompts else str(own.n_prompts),
                ]
            )
    if not rows:
        return [Paragraph("Nothing was evaluated.")]
    head = ["task", "metric", _label(run), *run.references, "prompts"]
    note = "Mean [95% interval over prompts]; no difference is tested here, see: kdbench compare."
    return [
        Table(head, rows, right=tuple(range(2, len(head)))),
        Paragraph(note, note=True),
    ]


def _values(summary: Summary, key: str) -> dict[str, Value]:
    """Metrics of one evaluation by name; a judge's are followed by a blank and its id."""
    found: dict[str, Value] = {}
    if key in summary.scores:
        found |= summary.scores[key].metrics
    found |= probe_values(summary.probes.get(key, {}))
    for judge, metrics in judged_values(summary, key):
        found |= {f"{name} {judge}": value for name, value in metrics.items()}
    return found


def _value(value: Value | None, metric: str) -> str:
    if value is None:
        return "– (not measured)"
    if isinstance(value, Missing):
        return f"– ({value.missing})"
    mean = number(value.mean, metric)
    if isinstance(value, Estimate):
        return f"{mean} [{number(value.low, metric)}, {number(value.high, metric)}]"
    return mean


def _samples(run: RunFiles) -> list[Part]:
    others = {label: reference.folder for label, reference in run.references.items()}
    found: list[Part] = []
    for key in _ordered(run.summary):
        if is_done(run.folder / "eval" / key, "generate"):
            found += samples(run.folder, key, _heading(run.summary, key), _label(run), others)
    return found
