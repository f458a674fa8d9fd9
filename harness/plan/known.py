"""Where a plan finds the configuration of a model: a folder, a file, the hub's cache, our own notes."""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from kdbench.harness.endpoints import place_of
from kdbench.harness.errors import InputError
from kdbench.harness.files.shipped import parse_yaml
from kdbench.harness.files.store import read_json
from kdbench.harness.plan.shapes import Shape, shape_of

PRUNED = re.compile(r"^prune:(\d+)$")


def find_shape(ref: str, teacher: Shape | None = None) -> Shape:
    """The sizes of a model that is named as runs name models; loads nothing.

    Args:
        ref: folder, config.json, hub id, ``prune:N`` or a model of the generated world.
        teacher: what ``prune:N`` is cut from.

    Raises:
        InputError: no configuration is there, or it lacks a size.
    """
    if place_of(ref):
        raise InputError(
            f"{ref} is an endpoint, which takes no memory here and whose size is not known; to plan the "
            "rest, give --teacher a model's name or config.json"
        )
    if found := PRUNED.match(ref):
        if teacher is None:
            raise InputError(f"{ref} is cut from a teacher; give --teacher as well")
        if not 1 <= int(found.group(1)) <= teacher.layers:
            raise InputError(f"{ref}: the teacher has {teacher.layers} layers; keep fewer")
        return teacher.cut(ref, int(found.group(1)))
    path = Path(ref).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json" or path.is_file():
        return shape_of(_read(path, ref), ref)
    known = known_configs().get(ref) or _cached(ref)
    if known is None:
        raise InputError(
            f"no configuration of {ref!r} lies here or in the hub's cache, and kdbench keeps none; give the "
            "model's folder or its config.json"
        )
    return shape_of(known, ref)


@cache
def known_configs() -> dict[str, dict[str, Any]]:
    """Our notes of the shipped suites' models, by name."""
    file = files("kdbench.harness.plan").joinpath("models.yaml")
    found: dict[str, dict[str, Any]] = parse_yaml(file.read_text(encoding="utf-8"), "models.yaml")
    return found


def _read(path: Path, ref: str) -> dict[str, Any]:
    if path.suffix == ".gguf":
        raise InputError(
            f"{ref}: sizes are not read from .gguf files; give its model's config.json"
        )
    if not path.is_file():
        raise InputError(f"no config.json at {ref!r}; give a model's folder or its config.json")
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no configuration; give a model's config.json")
    return found


def _cached(ref: str) -> dict[str, Any] | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(ref, "config.json")
    except HFValidationError:
        return None
    return _read(Path(found), ref) if isinstance(found, str) else None
