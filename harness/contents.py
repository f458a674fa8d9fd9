"""What models and data contain: fingerprints of files, and what was found out about a configuration.

Finding out the contents of a pair means loading (on the mini world: making) both models and reading
all data. `prepare` does that in any case and leaves the result here; studies and listings look it up.
A memory holds only while the files it was made from are as they were.
"""

import contextlib
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.config import RunConfig, TeacherEndpoint, run_name, with_precision
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
    stamps: dict[str, list[int]]
    """Files looked at, each with its `file_state`."""


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
    files: Iterable[Path | str],
) -> None:
    """Keeps what was found out about ``asked``; a cache that cannot be written costs time only.

    Args:
        where: whose cache keeps it.
        asked: the configuration before its precision was resolved.
        resolved: the same after.
        contents: of its models and data.
        files: files and folders that they were computed from.
    """
    found = [*files, *_data_files(asked, where.data_dir)]
    memory = Memory(contents=contents, precision=resolved.train.precision, stamps=_stamps(found))
    with contextlib.suppress(InputError):
        write_json(_path(where, asked), memory)


def recall(where: Circumstances, asked: RunConfig) -> Identified | None:
    """The run that ``asked`` stands for; None if nobody has prepared its like yet."""
    path = _path(where, asked)
    if not path.is_file():
        return None
    with contextlib.suppress(InputError):
        memory = read_record(path, Memory)
        if memory.stamps == _stamps(memory.stamps):
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
        "data_dir": str(where.data_dir.resolve()) if where.data_dir else None,
        "here": os.getcwd(),
        "world": _world_sources(),
        **({"endpoint": asked.endpoint} if asked.endpoint != TeacherEndpoint() else {}),
    }
    return where.cache / "known" / f"{digest(parts)[:32]}.json"


def _data_files(config: RunConfig, data_dir: Path | None) -> list[Path]:
    names = [n for field in DATA_NAMES if (n := getattr(config.data, field))]
    places = [Path(n) for n in names] + [data_dir / n for n in names if data_dir]
    return [place for place in places if place.exists()]


def _stamps(paths: Iterable[Path | str]) -> dict[str, list[int]]:
    """`file_state` of files and of all files in folders; -1 for what is gone."""
    stamps = {}
    for path in map(Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                stamps[str(file)] = list(file_state(file))
            except OSError:
                stamps[str(file)] = [-1]
    return stamps


@functools.cache
def _world_sources() -> str:
    """Hash of the generated world's code, from which its models and data follow."""
    return tree_sha256({"mini": source_folders()["tasks"] / "mini"})
