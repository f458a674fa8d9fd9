"""What a model folder holds, by its names, configurations and safetensors headers: no weights are read.

`inspect_folder` tells the kinds of folders people have and that cannot be loaded (adapters, quantised or
pickled weights, pointers instead of files, cut downloads), each with what to do about it. What is in the
weights, and whether they belong to the architecture, is `kdbench.trainers.load_report`'s.
"""

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import read_json
from kdbench.trainers.safetensors_header import AGAIN, POINTER, Stored, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.npz")
"""Weights that others read: pickles, which may carry code, and formats of other libraries."""
ADAPTER = "adapter_config.json"
SETTINGS = "tokenizer_config.json"
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""Any of these makes a tokenizer."""
QUANTISED = ("quantization_config", "compression_config", "quantization")
"""Fields of a configuration that say that weights are not plain numbers; the last is MLX's."""
SMALL_FILES = (
    "config.json", "generation_config.json", INDEX, ADAPTER, *TOKENIZERS, "merges.txt",
    SETTINGS, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that looks like a causal language model with safetensors weights.

    Attributes:
        path: the folder.
        config: its ``config.json``.
        files: its weight files, in order of name.
        tensors: what they hold, by name.
        places: in which of them each tensor lies.
    """

    path: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: dict[str, Stored]
    places: dict[str, Path]

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())


class Weights(NamedTuple):
    """Weight files, their tensors, and which lies where."""

    files: tuple[Path, ...]
    tensors: dict[str, Stored]
    places: dict[str, Path]


def inspect_folder(path: Path | str) -> ModelFolder:
    """What a model folder holds, without reading its weights.

    Raises:
        InputError: it is of a kind that cannot be loaded, or damaged; says what to do.
    """
    folder = Path(path)
    config = inspect_config(folder)
    weights = _weights(folder)
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > len(
        weights.tensors
    ):  # building them could take for ever
        raise InputError(
            f"{folder / 'config.json'} names {layers} layers, but the weights beside it hold "
            f"{len(weights.tensors)} tensors in all; use the config.json that belongs to them"
        )
    return ModelFolder(folder, config, *weights)


def inspect_config(path: Path | str) -> dict[str, Any]:
    """The ``config.json`` of a model folder, once nothing around it says that it cannot be loaded.

    Raises:
        InputError: no model, an adapter, quantised, needs code of its own, or damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"no model folder at {str(path)!r}; give the path of one")
    _check_files(folder)
    if (folder / ADAPTER).is_file():
        raise InputError(_adapter(folder))
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(_no_config(folder))
    config = check_config_file(file)
    if (made := folder / "generation_config.json").is_file():
        _check_generation(json_object(made), made)
    return config


def check_config_file(file: Path) -> dict[str, Any]:
    """A configuration of plain weights, in a JSON file.

    Raises:
        InputError: damaged, quantised, or of a model that needs code of its own.
    """
    if not file.is_file():
        raise InputError(f"no model configuration at {str(file)!r}; give the path of a config.json")
    config = json_object(file)
    for field in QUANTISED:
        if said := config.get(field):
            method = said.get("quant_method") if isinstance(said, dict) else None
            name = f" ({method})" if isinstance(method, str) else ""
            raise InputError(
                f"{file} is that of a quantised model{name}: it has a {field}; kdbench trains and "
                "measures plain weights: give the model it was made from, in float32, bfloat16 or float16"
            )
    if not isinstance(config.get("model_type"), str):
        raise InputError(_no_type(file))
    for place, value in _leaves(config):
        if isinstance(value, float) and math.isnan(value):
            raise InputError(f"{file}: {place} is NaN, not a number; use the model's own value")
    return config


def inspect_tokenizer(path: Path | str) -> dict[str, Any]:
    """The ``tokenizer_config.json`` of a folder, empty if there is none.

    Raises:
        InputError: its tokenizer is missing, damaged, or needs packages that are not here.
    """
    folder = Path(path)
    _check_files(folder)
    found = [name for name in TOKENIZERS if (folder / name).is_file()]
    if not found:
        raise InputError(
            f"{folder} holds no tokenizer (tokenizer.json or another of its kinds); copy the tokenizer's "
            "files into it from the model that it was made of"
        )
    read = {
        name: json_object(folder / name)
        for name in ("tokenizer.json", SETTINGS, "special_tokens_map.json")
        if (folder / name).is_file()
    }
    if found[0] in ("tokenizer.model", "spiece.model"):
        missing = [n for n in ("sentencepiece", "google.protobuf") if not _installed(n)]
        if missing:
            raise InputError(
                f"{folder} holds {found[0]} but no tokenizer.json, and reading it takes the packages "
                "sentencepiece and protobuf; pip install sentencepiece protobuf, or save the tokenizer "
                "as tokenizer.json where they are"
            )
    return read.get(SETTINGS, {})


def check_gguf(file: Path) -> None:
    """Raises InputError for what is no GGUF file by its first bytes."""
    if not file.is_file():
        raise InputError(f"no GGUF file at {str(file)!r}; give the path of an existing file")
    with file.open("rb") as opened:
        begin = opened.read(len(POINTER))
    if begin == POINTER:
        raise InputError(_pointer(file))
    if begin[:4] != b"GGUF":
        raise InputError(f"{file} is not a GGUF file, or its beginning is damaged; {AGAIN}")


def json_object(path: Path) -> dict[str, Any]:
    """A file that must hold one JSON object.

    Raises:
        InputError: empty, damaged, or something else.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; {AGAIN}")
    try:
        found = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; {AGAIN}") from error
    if not isinstance(found, dict):
        kind = {list: "a JSON list", type(None): "null"}.get(type(found), "a single value")
        raise InputError(f"{path} holds {kind}, not a JSON object with named fields; {AGAIN}")
    return found


# -- kinds of folders -----------------------------------------------------------------------------


def _check_files(folder: Path) -> None:
    """Every file we know by name must be a file, and not the pointer of one."""
    for name in SMALL_FILES:
        file = folder / name
        if file.is_symlink() and not file.exists():
            raise InputError(
                f"{file} is a link to a file that is not there (or to itself); download or copy the "
                "model again"
            )
        if not file.exists():
            continue
        if not file.is_file():
            raise InputError(f"{file} is not a file; download or copy the model again")
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise InputError(_pointer(file))


def _pointer(file: Path) -> str:
    return (
        f"{file} is a git-lfs pointer, not the file it stands for; run git lfs pull in {file.parent}, "
        "or download the file itself"
    )


def _adapter(folder: Path) -> str:
    said = json_object(folder / ADAPTER)
    kind, base = said.get("peft_type"), said.get("base_model_name_or_path")
    what = f"a {kind} adapter" if isinstance(kind, str) else "an adapter"
    on = f" for {base!r}" if isinstance(base, str) and base else ""
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        return (
            f"{folder} holds {what} ({ADAPTER}) beside full weights, and it is not clear which of them is "
            "meant; merge it into them (PEFT's merge_and_unload), or move the adapter's files away"
        )
    return (
        f"{folder} is {what}{on} (PEFT), not a whole model; merge it first (load the base, put the "
        "adapter on it with peft.PeftModel.from_pretrained, then merge_and_unload() and save_pretrained "
        "with the tokenizer) and give that folder, or give the base model"
    )


def _no_config(folder: Path) -> str:
    if (folder / "params.json").is_file() and any(folder.glob("consolidated*")):
        return (
            f"{folder} holds a model in its makers' own format (params.json), not in Hugging Face's; give "
            "the folder of its Hugging Face version, with config.json and safetensors weights"
        )
    if ggufs := sorted(folder.glob("*.gguf")):
        return f"{folder} is a folder of GGUF files without config.json; give one file: {ggufs[0]}"
    return (
        f"{str(folder)!r} is a folder without config.json, so it is no model; give a Hugging Face model "
        "folder, a hub id or a .gguf file"
    )


def _no_type(file: Path) -> str:
    if (student := file.parent / "student").is_dir():
        return (
            f"{file.parent} looks like a run folder, which is no model; give its student, {student}"
        )
    return (
        f"{file} names no model_type, so it does not say which architecture the weights are of; use the "
        "config.json that belongs to them"
    )


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values of a JSON document with their places."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from _leaves(part, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def _check_generation(config: dict[str, Any], file: Path) -> None:
    """What ends an answer is read from here; transformers ignores the file where it is damaged."""
    ends = config.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends]
    if not all(e is None or (type(e) is int and e >= 0) for e in listed):
        raise InputError(
            f"{file}: eos_token_id must be a token id or a list of token ids (got {repr(ends)[:60]}); "
            "use the model's own file"
        )


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# -- weights --------------------------------------------------------------------------------------


def _weights(folder: Path) -> Weights:
    files = _weight_files(folder)
    tensors: dict[str, Stored] = {}
    where: dict[str, Path] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in where:
                raise InputError(
                    f"tensor {name} of {folder} lies in two files, {where[name].name} and {file.name}, so it "
                    "is not clear which is meant; download or save the model again into an empty folder"
                )
            where[name], tensors[name] = file, tensor
    if not tensors:
        raise InputError(
            f"the weights of {folder} hold no tensors; download or save the model again"
        )
    return Weights(files, tensors, where)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    single, index = folder / SINGLE, folder / INDEX
    if _there(index) and _there(single):
        raise InputError(
            f"{folder} holds two sets of weights, {SINGLE} and the shards of {INDEX}; remove the one that "
            "is not meant"
        )
    if _there(index):
        return _shards(folder, index)
    if not _there(single):
        raise InputError(_no_weights(folder))
    return (single,)


def _there(file: Path) -> bool:
    return file.exists() or file.is_symlink()


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    named = json_object(index).get("weight_map")
    if not (isinstance(named, dict) and named and all(isinstance(n, str) for n in named.values())):
        raise InputError(
            f"{index} has no weight_map from tensors to files; download or copy it again"
        )
    files = []
    for name in sorted(set(named.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(
                f"{index} names {name!r}, but shards are .safetensors files beside it; download it again"
            )
        if not _there(folder / name):
            raise InputError(
                f"{folder} lacks {name}, a shard that {INDEX} names; download or copy it too"
            )
        files.append(folder / name)
    return tuple(files)


def _no_weights(folder: Path) -> str:
    if stray := sorted(folder.glob("*.safetensors")):
        if any("-of-" in file.name for file in stray):
            return (
                f"{folder} holds shards ({stray[0].name}, …) but no {INDEX}, which names them all; "
                "download or copy it too"
            )
        return (
            f"{folder} has no {SINGLE} (found {stray[0].name}); if that is the whole model, rename it to "
            f"{SINGLE}"
        )
    others = sorted(file for pattern in OTHER_WEIGHTS for file in folder.glob(pattern))
    if others:
        return (
            f"{folder} holds weights only as {others[0].name}, and kdbench reads safetensors, which carry "
            "no code; if you trust the file, load the model with transformers and save it again: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW), with the tokenizer"
        )
    if ggufs := sorted(folder.glob("*.gguf")):
        return f"{folder} holds its weights as GGUF; give the file itself: {ggufs[0]}"
    return (
        f"{folder} has a config.json but no weights ({SINGLE}, or shards with {INDEX}); download or copy "
        "them too, or give the .json file itself for a student with random weights"
    )
