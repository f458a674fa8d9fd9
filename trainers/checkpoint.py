"""Resumable training state on disk, without pickle: tensors in safetensors, the rest in JSON.

A checkpoint is a folder ``step-<n>`` that appears by one rename, so a kill leaves either the old one or
the new one. What it holds decides the rest of the training to the last bit.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kdbench.harness.files.folders import new_folder
from kdbench.harness.files.store import write_json


def flatten(state: Any, prefix: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """Splits nested dicts and lists into a JSON skeleton and named tensors."""
    if isinstance(state, torch.Tensor):
        return {"__tensor__": prefix}, {prefix: state.detach().cpu().contiguous().clone()}
    tensors: dict[str, torch.Tensor] = {}
    if isinstance(state, dict):
        skeleton: Any = {}
        for key, value in state.items():
            skeleton[str(key)], more = flatten(value, f"{prefix}/{key}")
            tensors.update(more)
        return skeleton, tensors
    if isinstance(state, list | tuple):
        items = []
        for i, value in enumerate(state):
            item, more = flatten(value, f"{prefix}/{i}")
            items.append(item)
            tensors.update(more)
        return items, tensors
    return state, tensors


def unflatten(skeleton: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Inverse of :func:`flatten` (tuples come back as lists, keys as strings)."""
    if isinstance(skeleton, dict):
        if set(skeleton) == {"__tensor__"}:
            return tensors[skeleton["__tensor__"]]
        return {k: unflatten(v, tensors) for k, v in skeleton.items()}
    if isinstance(skeleton, list):
        return [unflatten(v, tensors) for v in skeleton]
    return skeleton


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes checkpoint ``step`` and removes older ones once it stands."""
    skeleton, tensors = flatten(state)
    with new_folder(folder / f"step-{step:08d}") as path:
        save_file(tensors, path / "state.safetensors")
        write_json(path / "state.json", skeleton)
    for old in _folders(folder)[:-1]:
        shutil.rmtree(old)


def load_latest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint as (step, state), or None."""
    folders = _folders(folder)
    if not folders:
        return None
    path = folders[-1]
    skeleton = json.loads((path / "state.json").read_text())
    return int(path.name.removeprefix("step-")), unflatten(
        skeleton, load_file(path / "state.safetensors")
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-????????") if (p / "state.json").is_file())


def pack_sequences(sequences: list[Any]) -> dict[str, Any]:
    """Sequences with columns as plain state (for methods that remember responses)."""
    return {
        "prompts": [list(s.prompt) for s in sequences],
        "responses": [list(s.response) for s in sequences],
        "keys": [s.key for s in sequences],
        "columns": {
            name: torch.cat([s.columns[name] for s in sequences])
            for name in (sequences[0].columns if sequences else {})
        },
    }


def unpack_sequences(state: dict[str, Any]) -> list[Any]:
    """Inverse of :func:`pack_sequences`."""
    from kdbench.trainers.types import Sequence

    lengths = [len(r) for r in state["responses"]]
    columns = {k: v.split(lengths) for k, v in state["columns"].items()}
    return [
        Sequence(tuple(p), tuple(r), k, {n: c[i].clone() for n, c in columns.items()})
        for i, (p, r, k) in enumerate(
            zip(state["prompts"], state["responses"], state["keys"], strict=True)
        )
    ]
