"""Damaged and unusual model folders, each a function of its number: what people's folders come to.

`make` copies a whole folder and lets one accident happen to it. What must follow is one of

* ``refuse``: the folder must not be used;
* ``same``: unusual, but the same model: it must answer as the whole folder does, or be refused;
* ``any``: what it now says may be a model: if it is used, its weights must be those of the files.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file, save_file

Must = Literal["refuse", "same", "any"]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 134\n"
NASTY: list[Any] = [
    None, -1, 0, 1, 3, 0.5, 1e999, float("nan"), 10**12, 2**70, "", "x", "1", True, [], [1], ["a"], {},
    {"a": 1}, [[[]]], "∞", "\x1b[2J",
]  # fmt: skip


class Odd(NamedTuple):
    """One folder."""

    path: Path
    must: Must
    what: str


Accident = Callable[[random.Random, Path], Must]
ACCIDENTS: list[Accident] = []


def accident(function: Accident) -> Accident:
    """Takes a function into the list; the order decides which number does what."""
    ACCIDENTS.append(function)
    return function


def make(number: int, whole: Path, place: Path) -> Odd:
    """Folder ``number``: every kind of accident in turn, with particulars of its own."""
    kind = ACCIDENTS[number % len(ACCIDENTS)]
    random_ = random.Random(number)
    folder = place / random_.choice(["model", "a model", "modèle ∞", "m'odel"])
    shutil.copytree(whole, folder)
    return Odd(folder, kind(random_, folder), kind.__name__)


# -- tools ----------------------------------------------------------------------------------------


def edit(file: Path, **changes: Any) -> None:
    """Changes fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Saves the weights again, changed."""
    found = load_file(folder / WEIGHTS)
    change(found)
    found = {name: tensor.contiguous().clone() for name, tensor in found.items()}
    save_file(found, folder / WEIGHTS, {"format": "pt"})


def split(folder: Path) -> dict[str, str]:
    """The weights as two shards with an index, which is returned."""
    found = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(found)
    where = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: found[name] for name in part}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    write_index(folder, where)
    return where


def write_index(folder: Path, where: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def write_header(file: Path, header: bytes, rest: bytes) -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + rest)


def reheader(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header, rest = header_of(folder / WEIGHTS)
    change(header)
    write_header(folder / WEIGHTS, json.dumps(header).encode(), rest)


def some(random_: random.Random, header: dict[str, Any]) -> dict[str, Any]:
    return header[random_.choice([name for name in header if name != "__metadata__"])]


def pick(random_: random.Random, names: object) -> str:
    return random_.choice(sorted(names))  # type: ignore[call-overload]


# -- weights --------------------------------------------------------------------------------------


@accident
def cut_weights(random_: random.Random, folder: Path) -> Must:
    data = (folder / WEIGHTS).read_bytes()
    end = random_.choice([0, 1, 7, 8, 9, 100, len(data) - 1, random_.randrange(len(data))])
    (folder / WEIGHTS).write_bytes(data[:end])
    return "refuse"


@accident
def longer_weights(random_: random.Random, folder: Path) -> Must:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(random_.randbytes(random_.randint(1, 5000)))
    return "refuse"


@accident
def header_length(random_: random.Random, folder: Path) -> Must:
    data = (folder / WEIGHTS).read_bytes()
    length = random_.choice([0, 1, 2, 1 << 20, 99_999_999, 1 << 30, 1 << 62, (1 << 64) - 1])
    (folder / WEIGHTS).write_bytes(length.to_bytes(8, "little") + data[8:])
    return "refuse"


@accident
def header_bytes(random_: random.Random, folder: Path) -> Must:
    data = bytearray((folder / WEIGHTS).read_bytes())
    length = int.from_bytes(data[:8], "little")
    for _ in range(random_.randint(1, 3)):
        data[8 + random_.randrange(length)] = random_.choice(b'{}[]",:019azF \x00\xff')
    (folder / WEIGHTS).write_bytes(data)
    return "any"


@accident
def header_of_another(random_: random.Random, folder: Path) -> Must:
    def swap(header: dict[str, Any]) -> None:
        names = [name for name in header if name != "__metadata__"]
        fresh = {f"transformer.h.{n}.w": header.pop(name) for n, name in enumerate(names)}
        header.update(fresh)

    reheader(folder, swap)
    return "refuse"


@accident
def header_twice(random_: random.Random, folder: Path) -> Must:
    header, rest = header_of(folder / WEIGHTS)
    name = pick(random_, header.keys() - {"__metadata__"})
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    write_header(folder / WEIGHTS, text.encode(), rest)
    return "refuse"


@accident
def header_types(random_: random.Random, folder: Path) -> Must:
    key = random_.choice(["dtype", "shape", "data_offsets"])
    value = random_.choice([*NASTY, [-1, 4], [0, 1 << 62], "F8_E4M3", "I32", "U32", [1.5, 2]])
    reheader(folder, lambda header: some(random_, header).update({key: value}))
    return "any" if value == [] else "refuse"


@accident
def header_root(random_: random.Random, folder: Path) -> Must:
    _, rest = header_of(folder / WEIGHTS)
    text = random_.choice(
        [b"[]", b"null", b"{}", b"1", b"[" * 100_000, b"\xff" * 20, b'"x"', b"{ }    "]
    )
    write_header(folder / WEIGHTS, text, random_.choice([rest, b""]))
    return "refuse"


@accident
def whole_numbers(random_: random.Random, folder: Path) -> Must:
    def change(found: dict[str, torch.Tensor]) -> None:
        name = pick(random_, found)
        found[name] = found[name].view(random_.choice([torch.int32, torch.int16, torch.uint8]))
        found[name] = found[name] if random_.random() < 0.5 else found[name].to(torch.int64)

    retensor(folder, change)
    return "refuse"


@accident
def page_instead(random_: random.Random, folder: Path) -> Must:
    name = random_.choice([WEIGHTS, "config.json", "tokenizer.json", "generation_config.json"])
    page = '<!DOCTYPE html>\n<html lang="en"><head><title>404: not found</title></head></html>\n'
    (folder / name).write_text(
        random_.choice([page, "Entry not found", "Access denied", '{"error": "x"}'])
    )
    return "any" if name == "generation_config.json" else "refuse"


@accident
def pointer_instead(random_: random.Random, folder: Path) -> Must:
    name = pick(random_, {p.name for p in folder.iterdir()})
    (folder / name).write_text(POINTER)
    return "refuse"


@accident
def missing_tensor(random_: random.Random, folder: Path) -> Must:
    def change(found: dict[str, torch.Tensor]) -> None:
        for _ in range(random_.choice([1, 1, 2, 5, len(found) - 1])):
            found.pop(pick(random_, found))

    retensor(folder, change)
    return "refuse"


@accident
def renamed_tensors(random_: random.Random, folder: Path) -> Must:
    old, new = random_.choice(
        [("model.", "module.model."), ("model.", "base_model.model."), ("layers.", "h."),
         ("layers.0", "layers.7"), ("weight", "kernel"),
         ("model.", "_orig_mod."), ("q_proj", "query"), ("norm", "ln")]
    )  # fmt: skip

    def change(found: dict[str, torch.Tensor]) -> None:
        for name in list(found):
            found[name.replace(old, new)] = found.pop(name)

    retensor(folder, change)
    return "refuse"


@accident
def extra_tensors(random_: random.Random, folder: Path) -> Must:
    name = random_.choice(
        ["extra", "model.layers.9.mlp.up_proj.weight", "score.weight", "v_head.summary.weight", "x" * 5000,
         "model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.bias", "\x1b[2J"]
    )  # fmt: skip
    retensor(folder, lambda found: found.update({name: torch.ones(4, 4)}))
    return "refuse"


@accident
def other_shapes(random_: random.Random, folder: Path) -> Must:
    def change(found: dict[str, torch.Tensor]) -> None:
        name = pick(random_, found)
        tensor = found[name]
        found[name] = random_.choice(
            [tensor[:-1], torch.cat([tensor, tensor]), tensor[None], torch.ones(()), tensor[:0]]
        )

    retensor(folder, change)
    return "refuse"


@accident
def not_finite(random_: random.Random, folder: Path) -> Must:
    def change(found: dict[str, torch.Tensor]) -> None:
        flat = found[pick(random_, found)].view(-1)
        flat[random_.randrange(len(flat))] = float(random_.choice(["nan", "inf", "-inf"]))

    retensor(folder, change)
    return "refuse"


@accident
def zeros_instead(random_: random.Random, folder: Path) -> Must:
    header, rest = header_of(folder / WEIGHTS)
    start = 0 if random_.random() < 0.5 else len(rest) // 3
    write_header(
        folder / WEIGHTS, json.dumps(header).encode(), rest[:start] + bytes(len(rest) - start)
    )
    return "refuse"


@accident
def flipped_values(random_: random.Random, folder: Path) -> Must:
    header, rest = header_of(folder / WEIGHTS)
    data = bytearray(rest)
    for _ in range(random_.randint(1, 200)):
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    write_header(folder / WEIGHTS, json.dumps(header).encode(), bytes(data))
    return "any"


@accident
def other_formats(random_: random.Random, folder: Path) -> Must:
    name = random_.choice(
        ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.gguf", "flax_model.msgpack",
         "tf_model.h5", "weights.npz", "model.onnx", "pytorch_model.safetensors",
         "model-00001-of-00002.safetensors"]
    )  # fmt: skip
    (folder / WEIGHTS).rename(folder / name)
    return "refuse"


@accident
def adapters(random_: random.Random, folder: Path) -> Must:
    said = random_.choice(
        [
            {"peft_type": "LORA", "base_model_name_or_path": "some/base"},
            {},
            {"peft_type": 3},
            {"peft_type": "IA3"},
        ]
    )
    (folder / "adapter_config.json").write_text(random_.choice([json.dumps(said), "", "[]"]))
    kept = random_.random() < 0.5
    if not kept:
        (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    if not kept and random_.random() < 0.7:
        (folder / "config.json").unlink()
    return "refuse"
