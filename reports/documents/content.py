"""What was found of the files of runs, as a document."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from kdbench.harness.files.content import RunContent, State
from kdbench.reports.text.document import Document, Notes, Paragraph, Section, Strong, Table


def content_document(runs: Sequence[RunContent]) -> Document:
    """A table a run: each file, its state, and the reason; then how many of each state."""
    sections = []
    for run in runs:
        rows = [
            [each.file, Strong(each.state) if each.state == "damaged" else each.state, each.reason]
            for each in run.files
        ]
        away = [
            f"{name}: {kept.files} files, {kept.size:,} bytes, sha256 {kept.sha256[:12]}"
            for name, kept in run.elsewhere.items()
        ]
        notes = (
            [Notes([f"not in the bundle, but with its maker: {'; '.join(away)}"])] if away else []
        )
        sections.append(Section(run.run, [Table(["file", "state", "reason"], rows), *notes]))
    counts = Counter(each.state for run in runs for each in run.files)
    states: tuple[State, ...] = get_args(State)
    said = ", ".join(f"{counts[state]} {state}" for state in states)
    return Document("", [*sections, Section("", [Paragraph(f"{len(runs)} runs: files {said}")])])
