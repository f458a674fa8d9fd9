"""What models and data contain: fingerprints of files, and what was found out about a configuration.

Finding out the contents of a pair means loading (on the mini world: making) both models and reading
all data. `prepare` does that in any case and leaves the result here; studies and listings look it up.
A memory holds only while the files it was made from are as they were, and no others beside them: the
places are looked through again each time.
"""

import contextlib
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.config import RunConfig, TeacherEndpoint, run_name, with_precision
from kdbench.harness.data import places
from kdbench.harness.data.sources import data_folder
from kdbench.harness.endpoints import place_of
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record
from kdbench.harness.files.store import content_hash, file_state, read_record, write_json
from kdbench.harness.foreign import foreign
from kdbench.harness.identity import DATA_NAMES, Contents, digest, run_id, run_parts
from kdbench.harness.provenance import source_folders, tree_sha256
from kdbench.trainers.optim import Precision

# What decides a model's answers: weights, architecture, end tokens. Not: README, optimiser state.
MODEL_FILES = ("*.safetensors", "*.gguf", "config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.json", "*.model", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json",
    "tokenizer_config.json", "special_tokens_map.json", "*.jinja", "chat_template.json",
    "additional_chat_templates/*.jinja",
)  # fmt: skip

# What is fetched of a model on the hub: weights, configurations, tokenizers, chat templates; no code.
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def model_fingerprint(path: Path | str) -> str:
    """Hex sha256 over names and contents of a model's files (a folder, or one .gguf file).

    Raises:
        InputError: nothing there decides a model.
    """
    return _fingerprint(Path(path), MODEL_FILES, "model (config.json, *.safetensors or *.gguf)")


def tokenizer_fingerprint(path: Path | str) -> str:
    """Hex sha256 of a tokenizer's files, its chat template among them; a .gguf file carries its own."""
    return _fingerprint(Path(path), (*TOKENIZER_FILES, "*.gguf"), "tokenizer")


def _fingerprint(path: Path, patterns: Iterable[str], what: str) -> str:
    if path.is_file():
        return content_hash(path)
    found = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
    if not found:
        raise InputError(f"{path} holds no {what}; give a Hugging Face folder or a .gguf file")
    return digest(sorted((str(file.relative_to(path)), content_hash(file)) for file in found))


def local_copy(ref: str) -> Path:
    """The file or folder of a model.

    Raises:
        InputError: neither a path nor a hub id that can be had.
    """
    if place_of(ref):
        raise InputError(
            f"{ref} is an endpoint, and what is wanted here are a model's own files; give a folder or hub id"
        )
    path = Path(ref).expanduser()
    if path.is_dir() or path.suffix == ".gguf":
        return path
    if path.exists() or path.is_symlink():
        raise InputError(
            f"{ref!r} is neither a model folder nor a .gguf file; give the folder that holds a model's "
            "config.json and weights"
        )
    from huggingface_hub import snapshot_download

    with foreign(
        f"no model at {ref!r}: no such file or folder, and the Hugging Face hub gave none",
        "give the path of a model folder or .gguf file, or connect to the network",
    ):
        return Path(snapshot_download(ref, allow_patterns=list(HUB_FILES)))


def from_hub(ref: str) -> bool:
    """Whether a model is the hub's: no file or folder here, no recipe, nothing of the generated world."""
    here = Path(ref).expanduser().exists() or ref.endswith((".gguf", ".json"))
    return not here and ":" not in ref


# -- what was found out ---------------------------------------------------------------------------


class Memory(Record):
    """What one configuration's models and data were found to contain."""

    contents: Contents
    precision: Precision
    """What ``auto`` means on the machine and device it was found out for."""
    models: list[str]
    """Folders and files of models that they are of; the configuration names the others."""
    stamps: dict[str, list[int]]
    """All files that decide the contents, each with its `file_state`."""


class Identified(NamedTuple):
    """Which run a configuration stands for."""

    config: RunConfig
    """With precision resolved."""
    id: str

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return run_name(self.config, self.id)


class Circumstances(NamedTuple):
    """Where a configuration's names are looked up, and on which device ``auto`` is resolved."""

    cache: Path
    device: str
    data_dir: Path | None


def remember(
    where: Circumstances,
    asked: RunConfig,
    resolved: RunConfig,
    contents: Contents,
    models: Iterable[Path | str],
) -> None:
    """Keeps what was found out about ``asked``; a cache that cannot be written costs time only.

    Args:
        where: whose cache keeps it.
        asked: the configuration before its precision was resolved.
        resolved: the same after.
        contents: of its models and data.
        models: files and folders of both models.
    """
    memory = Memory(
        contents=contents,
        precision=resolved.train.precision,
        models=list(map(str, models)),
        stamps=_decisive(models, asked, where),
    )
    with contextlib.suppress(InputError):
        write_json(_path(where, asked), memory)


def recall(where: Circumstances, asked: RunConfig) -> Identified | None:
    """The run that ``asked`` stands for; None if nobody has prepared its like yet."""
    path = _path(where, asked)
    if not path.is_file():
        return None
    with contextlib.suppress(InputError):
        memory = read_record(path, Memory)
        if memory.stamps == _decisive(memory.models, asked, where):
            config = with_precision(asked, memory.precision)
            return Identified(config, run_id(run_parts(config, memory.contents)))
    return None


def _path(where: Circumstances, asked: RunConfig) -> Path:
    """Where the memory of a configuration is: named by all that its contents follow from."""
    parts = {
        "pair": asked.pair,
        "data": asked.data,
        "precision": asked.train.precision,
        "init_seed": asked.train.seed_of_init,
        "device": where.device,
        "data_dir": str(folder.resolve()) if (folder := _data_folder(where.data_dir)) else None,
        "here": os.getcwd(),
        "world": _world_sources(),
        **({"endpoint": asked.endpoint} if asked.endpoint != TeacherEndpoint() else {}),
    }
    return where.cache / "known" / f"{digest(parts)[:32]}.json"


def _decisive(
    models: Iterable[Path | str], asked: RunConfig, where: Circumstances
) -> dict[str, list[int]]:
    """Stamps of all that contents follow from: both models, a student's architecture, and the data."""
    found: dict[str, list[int]] = {}
    for model in models:
        found |= stamps(model, (*MODEL_FILES, *TOKENIZER_FILES))
    if asked.pair.student.endswith(".json"):
        found |= stamps(Path(asked.pair.student).expanduser())
    for place in _data_places(asked, where.data_dir):
        found |= stamps(place)
    return found


def _data_places(config: RunConfig, data_dir: Path | None) -> list[Path]:
    """Where named data may be; what is not there is noticed once it is."""
    names = [n for field in DATA_NAMES if (n := getattr(config.data, field))]
    folder = _data_folder(data_dir)
    own = [Path(places.place_of(n).path).expanduser() for n in names]
    return [*own, *(folder / n for n in names if folder)]


def _data_folder(data_dir: Path | None) -> Path | None:
    with contextlib.suppress(InputError):  # whoever reads it says that there is none
        return data_folder(data_dir)
    return data_dir


def stamps(place: Path | str, patterns: Iterable[str] = ()) -> dict[str, list[int]]:
    """`file_state` of a file, or of all files in a folder as it is now; -1 for what is not there.

    Args:
        place: file or folder.
        patterns: which files of a folder count; none: all but hidden ones and caches of data sets.
    """
    path = Path(place)
    files: Iterable[Path] = [path]
    if path.is_dir():
        found = {f for pattern in patterns for f in path.glob(pattern)} if patterns else _rows(path)
        files = sorted(file for file in found if file.is_file())
    return {str(file): _state(file) for file in files}


def _rows(folder: Path) -> set[Path]:
    """What may hold rows: not what starts with a dot, nor what a library keeps beside them."""
    return {
        file
        for file in folder.rglob("*")
        if not any(p.startswith((".", "cache-")) for p in file.relative_to(folder).parts)
    }


def _state(file: Path) -> list[int]:
    try:
        return list(file_state(file))
    except OSError:
        return [-1]


@functools.cache
def _world_sources() -> str:
    """Hash of the generated world's code, from which its models and data follow."""
    return tree_sha256({"mini": source_folders()["tasks"] / "mini"})
