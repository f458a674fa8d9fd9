"""Everything in a run folder, read and compared with what its markers, digests and summary say of it."""

import contextlib
from pathlib import Path
from typing import Literal

from kdbench.harness.errors import Damaged, InputError
from kdbench.harness.files.inside import inside, sealed
from kdbench.harness.files.records import LeftOutFiles, Record
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.selfcheck import FIELD
from kdbench.harness.files.stages import Stage, changed
from kdbench.harness.files.store import content_hash, read_json, read_rows

State = Literal["sound", "damaged", "uncovered"]
UNCOVERED = "no digest and no marker says what it should be"
"""Logs, cards and reports; and documents of a kdbench before 2026-12, or written by hand."""


class FileState(Record):
    """One file of a run: as it was written, not as it was written, or nobody can tell."""

    file: str
    """Its path in the run folder."""
    state: State
    reason: str = ""


class RunContent(Record):
    """All files of one run, by path; files that are gone but should be there too."""

    run: str
    files: list[FileState]
    elsewhere: dict[str, LeftOutFiles] = {}
    """Of a run that came in a bundle: what is with its maker only, and a digest of it."""

    @property
    def damaged(self) -> list[FileState]:
        """What is not as it was written."""
        return [file for file in self.files if file.state == "damaged"]


def check_content(run: RunFolder) -> RunContent:
    """Reads a whole run folder; nothing is changed, nothing remembered is trusted but of this process."""
    found: dict[str, FileState] = {}

    def note(path: Path, reason: str, covered: bool = True) -> None:
        name = path.relative_to(run.path).as_posix()
        state: State = "damaged" if reason else "sound" if covered else "uncovered"
        before = found.get(name)
        if before is None or (before.state != "damaged" and state != "uncovered"):
            found[name] = FileState(
                file=name, state=state, reason=reason or ("" if covered else UNCOVERED)
            )

    foreign = (run.training.student, run.training.adapter)  # written by other libraries
    for path in sorted(p for p in sealed(run.path).rglob("*") if p.is_file()):
        if path.suffix in (".json", ".done") and path.parent not in foreign:
            note(path, *_document(path))
        elif path.suffix == ".jsonl":
            note(path, *_rows(path))
        else:
            note(path, "", covered=False)
    for marker in sorted(run.path.rglob("*.done")):
        for path, reason in _outputs(Stage(marker.parent, marker.stem)):
            note(path, reason)
    for path, reason in _summarised(run):
        note(path, reason)
    files = [found[name] for name in sorted(found)]
    return RunContent(run=run.name, files=files, elsewhere=_elsewhere(run))


def _elsewhere(run: RunFolder) -> dict[str, LeftOutFiles]:
    with contextlib.suppress(InputError):  # damaged: said of the file itself
        if left_out := run.left_out.find():
            return left_out.what
    return {}


def _document(path: Path) -> tuple[str, bool]:
    """What is wrong with a JSON document, and whether it carries its digest."""
    try:
        read_json(path)
    except InputError as error:
        return _short(error, path), True
    return "", f'"{FIELD}": "' in path.read_text(encoding="utf-8")[-100:]


def _rows(path: Path) -> tuple[str, bool]:
    """The same of rows."""
    try:
        read_rows(path)
    except InputError as error:
        return _short(error, path), True
    data = path.read_bytes()
    covered = f'"{FIELD}": "'.encode() in data[: data.find(b"\n")][-40:]
    torn = covered and not data.endswith(b"\n")
    return ("is cut short in its last line" if torn else ""), covered


def _outputs(stage: Stage) -> list[tuple[Path, str]]:
    try:
        marker = stage.marker()
    except InputError as error:
        return [(stage.file, _short(error, stage.file))]
    found = []
    for name, stamp in marker.outputs.items() if marker else ():
        try:
            path = inside(stage.folder, name)
        except InputError as error:
            return [(stage.file, str(error))]
        found.append((path, changed(path, stamp)))
    return found


def _summarised(run: RunFolder) -> list[tuple[Path, str]]:
    """Scores, and whether the summary was made of them."""
    try:
        summary = run.summary.find()
    except Damaged:
        return []
    except InputError as error:
        return [(run.summary.path, _short(error, run.summary.path))]
    found = []
    for key, scores in summary.scores.items() if summary else ():
        file = run.evaluation(key).scores_file
        if scores.scores_sha256 and file.is_file():
            same = content_hash(file) == scores.scores_sha256
            found.append((file, "" if same else "is not what the summary was made of"))
    return found


def _short(error: InputError, path: Path) -> str:
    return str(error).partition(";")[0].removeprefix(f"{path} ")
