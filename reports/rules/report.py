"""What ``kdbench check`` prints: the division of every run, and one line for each broken rule."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdbench.harness.files.records import Record
from kdbench.harness.files.run_folder import RunFolder
from kdbench.reports.rules.check import Judged, group_of, judge_runs, rulebook
from kdbench.reports.runs import Run, finished_runs, grouped
from kdbench.reports.text import document as doc


class CheckReport(Record):
    """Every run given, judged by one rulebook."""

    rules: str
    runs: list[Judged]
    left_out: list[str] = []

    @property
    def broken(self) -> bool:
        """Whether any run breaks any rule."""
        return any(run.broken for run in self.runs)


def check_runs(paths: Iterable[Path | str], rules: str) -> CheckReport:
    """Judges the finished runs under ``paths``, prompts included.

    They are compared with each other; a run that is given without any other of its suite, teacher and
    student is compared with the finished ones beside its folder.

    Raises:
        InputError: no finished run, no such rules, or a file that cannot be read.
    """
    book = rulebook(rules)
    runs, left_out = finished_runs(paths)
    judged = judge_runs([*runs, *_company(runs)], book, strict=True)
    asked = {run.folder for run in runs}
    found = [verdict for folder, verdict in judged.items() if folder in asked]
    return CheckReport(rules=book.version, runs=found, left_out=left_out)


def _company(runs: Sequence[Run]) -> list[Run]:
    """Finished runs beside those of ``runs`` that nothing else of ``runs`` is compared with."""
    trained = [run for run in runs if run.summary.run.kind == "run"]
    groups = Counter(group_of(run) for run in trained)
    found: dict[RunFolder, Run] = {}
    for run in trained:
        if groups[group_of(run)] == 1:
            beside = finished_runs([run.folder.path.parent])[0]
            found |= {b.folder: b for b in beside if group_of(b) == group_of(run)}
    return [run for folder, run in found.items() if folder not in {r.folder for r in runs}]


def check_document(report: CheckReport) -> doc.Document:
    """A group's divisions, then what is broken."""
    judged = [run for run in report.runs if run.division not in ("reference", "outside")]
    groups = sorted(grouped(judged, lambda run: run.group).items())
    sections = [doc.Section(f"{report.rules}, {name}", _group(runs)) for name, runs in groups]
    left_out = "left out: " + "; ".join(report.left_out)
    below = [*([left_out] if report.left_out else []), _count(report)]
    return doc.Document("", [*sections, doc.Section("", [doc.Notes(below)])])


def _group(runs: Sequence[Judged]) -> list[doc.Part]:
    rows = [
        [run.division, run.run, f"breaks {', '.join(run.broken)}" if run.broken else ""]
        for run in runs
    ]
    sentences = [finding.sentence for run in runs for finding in run.findings]
    untested = dict.fromkeys(", ".join(run.untested) for run in runs if run.untested)
    sentences += [
        f"not tested, as no other finished run has this suite, teacher and student: {rules}"
        for rules in untested
    ]
    return [doc.Table([], rows), *([doc.Notes(sentences)] if sentences else [])]


def _count(report: CheckReport) -> str:
    number = Counter(run.division for run in report.runs)
    words = [f"{number['closed']} closed, {number['open']} open"]
    alone = sum(bool(run.untested) for run in report.runs)
    if alone:
        words.append(f"{alone} compared with no other run")
    if number["reference"]:
        models = "reference models are" if number["reference"] > 1 else "reference model is"
        words.append(f"{number['reference']} {models} not judged")
    return "; ".join(words)
