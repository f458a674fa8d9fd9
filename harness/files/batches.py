"""Long files of rows, read some rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from kdbench.harness.files.store import objects, reading, validated

R = TypeVar("R", bound=BaseModel)


def record_batches(path: Path | str, model: type[R], size: int) -> Iterator[list[R]]:
    """All whole rows of a JSONL file as ``model``, so many at a time; as `read_records`, less memory."""
    if not Path(path).exists():
        return
    batch: list[R] = []
    with reading(path), open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or not line.strip():
                continue
            try:
                batch.append(model.model_validate_json(line))
            except ValidationError:  # say where, or take what Python's parser takes
                rows = [row for _, row in objects(line, f"{path}:{number}")]
                batch += [validated(model, row, f"{path}:{number}") for row in rows]
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch
