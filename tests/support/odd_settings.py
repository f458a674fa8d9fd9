"""More accidents of model folders (see `odd_folders`): configurations, tokenizers, indices, file systems."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from odd_folders import (
    INDEX,
    NASTY,
    POINTER,
    WEIGHTS,
    Must,
    accident,
    edit,
    pick,
    retensor,
    split,
    write_index,
)
from safetensors.torch import load_file, save_file

# -- configurations -------------------------------------------------------------------------------


@accident
def config_gone(random_: random.Random, folder: Path) -> Must:
    file = folder / "config.json"
    text = file.read_text()
    content = random_.choice(
        [b"", b" ", b"[]", b"null", b"3", b'"x"', b"{}", text[: len(text) // 2].encode(), b"\xff\xfe{",
         b"\x00" * 50, b"[" * 100_000, b'{"a":' * 50_000, text.encode("utf-16"), None]
    )  # fmt: skip
    file.unlink() if content is None else file.write_bytes(content)
    return "refuse"


@accident
def config_fields(random_: random.Random, folder: Path) -> Must:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", **{pick(random_, config): random_.choice(NASTY)})
    return "any"


@accident
def config_more_fields(random_: random.Random, folder: Path) -> Must:
    config = json.loads((folder / "config.json").read_text())
    changes = {name: random_.choice(NASTY) for name in random_.sample(sorted(config), 3)}
    edit(folder / "config.json", **changes)
    return "any"


@accident
def config_sizes(random_: random.Random, folder: Path) -> Must:
    name = random_.choice(["hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers"])
    file = folder / "config.json"
    now = json.loads(file.read_text())[name]
    edit(file, **{name: random_.choice([now + 1, now - 1, now * 2, now * 10**7])})
    return "refuse"


@accident
def config_without(random_: random.Random, folder: Path) -> Must:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    gone = pick(random_, config)
    file.write_text(json.dumps({k: v for k, v in config.items() if k != gone}))
    return "any"


@accident
def other_architectures(random_: random.Random, folder: Path) -> Must:
    kind = random_.choice(
        ["bert", "roberta", "gpt2", "opt", "t5", "bart", "vit", "clip", "whisper", "qwen2", "gemma3",
         "mamba", "llava", "falcon", "bloom", "deepseek_v3", "llamma", "chatglm", "gpt_neox",
         "mixtral", "phi3", "LLAMA", "", 3, None]
    )  # fmt: skip
    edit(folder / "config.json", model_type=kind)
    # qwen2 has biases that are missing; phi3 fuses; all are other architectures
    return "refuse"


@accident
def quantised(random_: random.Random, folder: Path) -> Must:
    method = random_.choice(
        ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors", "mxfp4", 7]
    )
    said: Any = random_.choice([{"quant_method": method, "bits": 4}, {}, {"bits": 4}, "4bit", [4]])
    said = {"quant_method": method} if said == {} else said
    edit(
        folder / "config.json",
        **{random_.choice(["quantization_config", "compression_config"]): said},
    )
    return "refuse"


@accident
def quantised_elsewhere(random_: random.Random, folder: Path) -> Must:
    edit(folder / "config.json", quantization={"group_size": 64, "bits": 4})
    return "refuse"


@accident
def code_of_its_own(random_: random.Random, folder: Path) -> Must:
    (folder / "mine.py").write_text("open('pwned', 'w').write('x')\nclass C: pass\n")
    kind = random_.choice(["mine", "llama", None])
    names = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.C"}
    file = random_.choice(["config.json", "tokenizer_config.json"])
    if file == "config.json":
        edit(folder / file, model_type=kind, auto_map=random_.choice([names, "mine.C", [1]]))
    else:
        edit(folder / file, auto_map={"AutoTokenizer": ["mine.C", None]}, tokenizer_class="C")
    return "any"


@accident
def untied(random_: random.Random, folder: Path) -> Must:
    edit(folder / "config.json", tie_word_embeddings=True)
    return "refuse"


@accident
def generation(random_: random.Random, folder: Path) -> Must:
    file = folder / "generation_config.json"
    content = random_.choice(["", "[", "[]", "null", "\x00", '{"eos_token_id": 1', "{'a': 1}"])
    if random_.random() < 0.5:
        file.write_text(content)
        return "refuse"
    ends = random_.choice(["</s>", -1, 10**9, 2.5, ["a"], {}, True, [[1]]])
    edit(file, eos_token_id=ends)
    return "any"


@accident
def generation_fields(random_: random.Random, folder: Path) -> Must:
    names = [
        "temperature",
        "max_length",
        "pad_token_id",
        "bos_token_id",
        "do_sample",
        "cache_implementation",
        "top_k",
    ]
    edit(folder / "generation_config.json", **{random_.choice(names): random_.choice(NASTY)})
    return "any"


# -- tokenizers -----------------------------------------------------------------------------------


@accident
def tokenizer_gone(random_: random.Random, folder: Path) -> Must:
    file = folder / "tokenizer.json"
    text = file.read_text()
    content = random_.choice(
        [b"", b"{}", b"[]", b"null", text[: len(text) // 2].encode(), b"\xff" * 40, None,
         text.encode("utf-16"), b'{"version": "1.0", "model": null}', b'{"model": {"type": "BPE"}}',
         b"[" * 100_000]
    )  # fmt: skip
    file.unlink() if content is None else file.write_bytes(content)
    return "refuse"


@accident
def tokenizer_fields(random_: random.Random, folder: Path) -> Must:
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text())
    part = random_.choice([whole, whole["model"]])
    part[pick(random_, part)] = random_.choice(NASTY)
    file.write_text(json.dumps(whole))
    return "any"


@accident
def tokenizer_ids(random_: random.Random, folder: Path) -> Must:
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text())
    vocabulary = whole["model"]["vocab"]
    name = pick(random_, vocabulary)
    vocabulary[name] = random_.choice([-1, 10**12, 2**40, "a", None, 1.5, len(vocabulary) + 50_000])
    file.write_text(json.dumps(whole))
    return "any"


@accident
def tokenizer_settings(random_: random.Random, folder: Path) -> Must:
    file = folder / "tokenizer_config.json"
    names = [
        *json.loads(file.read_text()),
        "added_tokens_decoder",
        "extra_special_tokens",
        "tokenizer_class",
    ]
    edit(file, **{random_.choice(names): random_.choice(NASTY)})
    return "any"


@accident
def tokenizer_settings_gone(random_: random.Random, folder: Path) -> Must:
    name = random_.choice(["tokenizer_config.json", "special_tokens_map.json"])
    (folder / name).write_text(random_.choice(["", "[]", "{", "null", "\x00"]))
    return "refuse"


@accident
def sentencepiece_only(random_: random.Random, folder: Path) -> Must:
    (folder / "tokenizer.json").unlink()
    name = random_.choice(["tokenizer.model", "spiece.model"])
    (folder / name).write_bytes(random_.choice([b"", b"\x0a\x0b", random_.randbytes(300)]))
    return "refuse"


# -- indices --------------------------------------------------------------------------------------


@accident
def shards(random_: random.Random, folder: Path) -> Must:
    split(folder)
    return "same"


@accident
def shard_gone(random_: random.Random, folder: Path) -> Must:
    where = split(folder)
    file = folder / pick(random_, set(where.values()))
    kind = random_.randrange(5)
    data = file.read_bytes()
    file.unlink()
    if kind == 1:
        file.mkdir()
    elif kind == 2:
        file.write_text(POINTER)
    elif kind == 3:
        file.write_bytes(data[: random_.randrange(len(data))])
    elif kind == 4:
        file.symlink_to(file.name)
    return "refuse"


@accident
def odd_index(random_: random.Random, folder: Path) -> Must:
    where = split(folder)
    name = pick(random_, where)
    odd: list[Any] = [
        None, [], {}, "x", [["a", "b"]], dict.fromkeys(where, 3), dict.fromkeys(where, ""),
        {**where, name: "../x"}, {**where, name: "/etc/passwd"}, {**where, name: "none.safetensors"},
        {**where, name: "config.json"},
        {k: v for k, v in where.items() if v.startswith("model-00001")},
        {**where, name: "a\x00b.safetensors"},
    ]  # fmt: skip
    write_index(folder, random_.choice(odd))
    if random_.random() < 0.2:
        (folder / INDEX).write_text(random_.choice(["", "[]", "{", '{"weight_map": {"a": "b"}}']))
    return "refuse"


@accident
def two_sets(random_: random.Random, folder: Path) -> Must:
    shutil.copy(folder / WEIGHTS, folder / "kept")
    split(folder)
    (folder / "kept").rename(folder / WEIGHTS)
    return "refuse"


@accident
def tensor_in_two_shards(random_: random.Random, folder: Path) -> Must:
    where = split(folder)
    one, other = sorted(set(where.values()))
    first, second = load_file(folder / one), load_file(folder / other)
    name = pick(random_, first)
    second[name] = first[name] + 1
    save_file(second, folder / other, {"format": "pt"})
    return "refuse"


# -- file systems and what is unusual -------------------------------------------------------------


@accident
def no_file(random_: random.Random, folder: Path) -> Must:
    names = [
        "config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ]
    file = folder / random_.choice(names)
    file.unlink()
    kind = random_.randrange(4)
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        os.mkfifo(file)
    else:
        file.symlink_to(file.name if kind == 2 else "nowhere")
    return "refuse"


@accident
def no_folder(random_: random.Random, folder: Path) -> Must:
    shutil.rmtree(folder)
    kind = random_.randrange(5)
    if kind == 1:
        folder.mkdir()
    elif kind == 2:
        folder.write_text("x")
    elif kind == 3:
        folder.symlink_to(folder.name)
    elif kind == 4:
        folder.mkdir()
        (folder / "student").mkdir()
        (folder / "config.json").write_text('{"suite": "mini"}')
    return "refuse"


@accident
def company(random_: random.Random, folder: Path) -> Must:
    """Things that lie about in model folders and change nothing."""
    for name in (
        "README.md",
        "optimizer.pt",
        "training_args.bin",
        ".gitattributes",
        "trainer_state.json",
    ):
        (folder / name).write_bytes(random_.randbytes(20))
    (folder / "runs").mkdir()
    if random_.random() < 0.5:
        os.mkfifo(folder / "pipe.safetensors")
    if random_.random() < 0.5:
        (folder / "old.safetensors").symlink_to("nowhere")
    return "same"


@accident
def links(random_: random.Random, folder: Path) -> Must:
    """As the hub's cache keeps them."""
    blobs = folder.parent / "blobs"
    shutil.move(folder, blobs)
    folder.mkdir()
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(Path("..") / "blobs" / file.name)
    return "same"


@accident
def other_precisions(random_: random.Random, folder: Path) -> Must:
    dtype = random_.choice([torch.bfloat16, torch.float16, torch.float64])

    def change(found: dict[str, torch.Tensor]) -> None:
        whole = random_.random() < 0.5
        for name in found if whole else [pick(random_, found)]:
            found[name] = found[name].to(dtype)

    retensor(folder, change)
    return "any"


@accident
def gguf(random_: random.Random, folder: Path) -> Must:
    shutil.rmtree(folder)
    folder.mkdir()
    file = folder / "model.gguf"
    content = random_.choice(
        [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + random_.randbytes(40), POINTER.encode(), None]
    )
    file.mkdir() if content is None else file.write_bytes(content)
    return "refuse"
