"""Classification sets with label words (SST-2, BoolQ): for calibration."""

from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.data import hub
from kdbench.harness.data.examples import read_objects
from kdbench.harness.data.sources import data_folder
from kdbench.harness.errors import InputError, unknown


class Labelled(NamedTuple):
    """One classified text: ``fields`` as the file names them, ``label`` an index of classes."""

    doc_id: int
    fields: dict[str, str]
    label: int


class _Layout(NamedTuple):
    path: str
    hub_id: str
    fields: tuple[str, ...]
    label: str


LAYOUTS = {
    "sst2": _Layout("sst2/validation.jsonl", "stanfordnlp/sst2", ("sentence",), "label"),
    "boolq": _Layout("boolq/validation.jsonl", "google/boolq", ("question", "passage"), "answer"),
}


def load_labelled(name: str, data_dir: Path | str | None = None) -> list[Labelled]:
    """Validation rows of a set in `LAYOUTS`, from the data folder, else the hub.

    Raises:
        InputError: unknown name, found in neither place, or a malformed row.
    """
    if name not in LAYOUTS:
        raise unknown("labelled set", name, LAYOUTS)
    layout = LAYOUTS[name]
    folder = data_folder(data_dir)
    if folder is not None and (folder / layout.path).is_file():
        file = folder / layout.path
        found = ((f"{file}:{number}", row) for number, row in read_objects(file))
    else:
        looked = f"{layout.path} in {folder}" if folder else f"{layout.path} (no --data-dir)"
        fetched = hub.validation_rows(layout.hub_id, looked)
        found = ((f"{layout.hub_id}, row {index + 1}", row) for index, row in fetched)
    rows = [_labelled(index, row, layout, where) for index, (where, row) in enumerate(found)]
    if not rows:
        raise InputError(f"{layout.path} has no rows; give a file with at least one")
    return rows


def _labelled(index: int, row: dict[str, Any], layout: _Layout, where: str) -> Labelled:
    fields = {key: row.get(key) for key in layout.fields}
    label = row.get(layout.label)
    texts = {key: value for key, value in fields.items() if isinstance(value, str)}
    if len(texts) != len(fields) or label not in (0, 1):  # True and False are 1 and 0
        wanted = ", ".join((*layout.fields, layout.label))
        raise InputError(f"{where} needs {wanted} (a label of 0/1 or false/true)")
    return Labelled(doc_id=index, fields=texts, label=int(label))
