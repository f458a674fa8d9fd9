"""A trained model written as an ordinary folder, tensor by tensor.

Every tensor is made whole alone, and the first process holds those of one file before it writes them: of a
shared model nobody ever has all. Files and their index are those of transformers, a tied tensor is there
once, and a model that fits into one file is the same bytes as `save_pretrained` writes.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from kdbench.harness.files.store import write_text
from kdbench.trainers.model_folder import INDEX, SINGLE
from kdbench.trainers.parallel.ranks import together
from kdbench.trainers.parallel.settings import FILE_BYTES
from kdbench.trainers.parallel.tensors import stored_tensors, whole


def is_streamable(model: PreTrainedModel) -> bool:
    """Whether a model's tensors are stored as they are, and not made into others (split experts)."""
    if model._keys_to_ignore_on_save:
        return False
    found = stored_tensors(model).items()
    shapes = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in found}
    made = revert_weight_conversion(model, dict(shapes))
    return made.keys() == shapes.keys() and all(made[n] is t for n, t in shapes.items())


def write_model(model: PreTrainedModel, folder: Path | None, *, most: int = FILE_BYTES) -> None:
    """Writes configuration and weights; a collective.

    Args:
        model: whole or shared; see `is_streamable`.
        folder: an empty one, in the first process; None in the others.
        most: bytes of tensors in one file.

    Raises:
        InputError: the first process cannot write; in the others, what it says.
        Exception: in the first process, of what writes.
    """
    tensors = stored_tensors(model)
    files = list(_dealt(tensors, most))
    names = [SINGLE]
    if len(files) > 1:
        names = [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    inside = dict(zip(names, files, strict=True))
    together(partial(_write_about, model, folder, inside) if folder else lambda: None)
    for file, tensor_names in inside.items():
        held = {}
        for name in tensor_names:
            value = whole(tensors[name]).detach()
            if folder is not None:
                held[name] = value.cpu().contiguous()
        # agreed on before the next tensor is gathered: a full disk is the first process's alone
        together(lambda: folder and save_file(held, folder / file, {"format": "pt"}))  # noqa: B023


def _dealt(tensors: dict[str, Tensor], most: int) -> Iterator[list[str]]:
    """Names of tensors by file, in order."""
    inside: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if inside and size + _bytes(tensor) > most:
            yield inside
            inside, size = [], 0
        inside.append(name)
        size += _bytes(tensor)
    yield inside


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.dtype.itemsize


def _write_about(model: PreTrainedModel, folder: Path, files: dict[str, list[str]]) -> None:
    """What lies beside the weights."""
    config: Any = model.config
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if len(files) > 1:
        sizes = {
            "total_parameters": sum(p.numel() for p in model.parameters()),
            "total_size": sum(map(_bytes, stored_tensors(model).values())),
        }
        places = {name: file for file, names in files.items() for name in names}
        index = {"metadata": sizes, "weight_map": places}
        write_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
