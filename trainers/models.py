"""Loading, pruning and initialising the two models of a pair, and checking that they fit together."""

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kdbench.harness.errors import InputError

PRUNE = re.compile(r"^prune:(\d+)$")
PROBES = (
    "The quick brown fox, 42 times:\n\tjumped!",
    "Ünïcödé 你好 — e-mail@example.org",
    "a  b   c",
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids both models share.

    Attributes:
        size: ids below it are real; wider logits are padding and masked in both models.
        eos_ids: ids that end an answer; the first is the one appended to training responses.
        pad_id: id used to fill rows; never attended to nor predicted.
    """

    size: int
    eos_ids: tuple[int, ...]
    pad_id: int


def load_tokenizer(ref: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id, a folder or a GGUF file."""
    path = Path(ref)
    try:
        if ref.endswith(".gguf"):
            return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        return AutoTokenizer.from_pretrained(ref)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(_cannot_load("tokenizer", ref, error)) from error


def load_model(ref: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal language model of a hub id, a folder (safetensors only) or a GGUF file, in eval mode.

    Parameters own their memory: weights mapped from a file may be unaligned, which changes the last
    bits of matrix products and would break bitwise resume.

    Raises:
        InputError: nothing loadable is there.
    """
    path = Path(ref)
    if ref.endswith(".gguf") and not path.is_file():
        raise InputError(f"no GGUF file at {ref!r}; give the path of an existing file.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(
            f"{ref!r} is a folder without config.json, so it is no model; give a Hugging Face model "
            "folder, a hub id or a .gguf file."
        )
    try:
        if ref.endswith(".gguf"):
            quantised = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
            model = _plain_copy(quantised)
        else:
            model = AutoModelForCausalLM.from_pretrained(ref, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(_cannot_load("model", ref, error)) from error
    own_memory(model)
    return moved(model, dtype=dtype).eval()


def moved(model: PreTrainedModel, **to: Any) -> PreTrainedModel:
    """``model.to(...)``, whose own annotation hides what it takes."""
    torch.nn.Module.to(model, **to)
    return model


def own_memory(model: torch.nn.Module) -> None:
    """Gives every parameter and buffer freshly allocated, aligned memory (ties are kept)."""
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()


def _plain_copy(quantised: PreTrainedModel) -> PreTrainedModel:
    """The same model without the marks of its GGUF origin, which would forbid saving it."""
    fields = {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    config = type(quantised.config)(**fields)
    model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict())
    return model


def _cannot_load(what: str, ref: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return (
        f"cannot load a {what} from {ref!r} ({reason}); give a hub id that is reachable, a Hugging Face "
        "folder with safetensors weights, or a .gguf file."
    )


def initialise(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """A model with random weights, the same for the same seed, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def config_from(ref: str) -> PretrainedConfig:
    """The model configuration in a JSON file, a folder or a GGUF file.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(ref)
    try:
        if ref.endswith(".gguf"):
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        return AutoConfig.from_pretrained(ref)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(_cannot_load("model configuration", ref, error)) from error


def kept_layers(total: int, keep: int) -> list[int]:
    """Which layers ``prune:keep`` keeps: evenly spaced, first and last included."""
    if not 1 <= keep <= total:
        raise InputError(
            f"prune:{keep} keeps more layers than the teacher has ({total}); "
            f"choose a number from 1 to {total}."
        )
    if keep == 1:
        return [0]
    return [round(i * (total - 1) / (keep - 1)) for i in range(keep)]


def prune(teacher: PreTrainedModel, keep: int) -> PreTrainedModel:
    """A new model made of ``keep`` of the teacher's layers, in float32, sharing no memory."""
    total = int(teacher.config.num_hidden_layers)
    layers = kept_layers(total, keep)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = keep
    types = getattr(config, "layer_types", None)
    if types:
        config.layer_types = [types[i] for i in layers]
    student = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    prefix = _layers_prefix(teacher, total)
    place = {old: new for new, old in enumerate(layers)}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in teacher.state_dict().items():
        if name.startswith(prefix):
            index, rest = name[len(prefix) :].split(".", 1)
            if int(index) not in place:
                continue
            name = f"{prefix}{place[int(index)]}.{rest}"
        weights[name] = tensor.to(torch.float32)
    student.load_state_dict(weights)
    own_memory(student)
    return student.eval()


def _layers_prefix(model: PreTrainedModel, total: int) -> str:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == total:
            return f"{name}."
    raise InputError(
        f"cannot find the list of {total} layers inside {type(model).__name__}, so it cannot be pruned; "
        "use a student folder instead of prune:N."
    )


def vocabulary(tokenizer: PreTrainedTokenizerBase, *models: PreTrainedModel) -> Vocabulary:
    """The shared vocabulary; logits beyond it are padding.

    Raises:
        InputError: a model has fewer output columns than the tokenizer has tokens.
    """
    size = max(tokenizer.get_vocab().values()) + 1
    for model in models:
        width = model.get_output_embeddings().weight.shape[0]
        if width < size:
            raise InputError(
                f"{model.name_or_path or type(model).__name__!r} predicts {width} tokens but the "
                f"tokenizer has {size}; use the tokenizer that belongs to the model."
            )
    eos = [tokenizer.eos_token_id]
    for model in models:
        more = getattr(model.generation_config, "eos_token_id", None)
        eos += more if isinstance(more, list) else [more]
    eos_ids = tuple(dict.fromkeys(e for e in eos if e is not None and e < size))
    if not eos_ids:
        raise InputError(
            "the tokenizer names no end-of-sequence token, so answers could never end; "
            "set eos_token in its tokenizer_config.json."
        )
    pad = tokenizer.pad_token_id
    return Vocabulary(size, eos_ids, pad if pad is not None else eos_ids[0])


def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether both map text to the same ids (vocabulary, end token, and a few probes)."""
    return (
        one.get_vocab() == other.get_vocab()
        and one.eos_token_id == other.eos_token_id
        and all(one(p)["input_ids"] == other(p)["input_ids"] for p in PROBES)
    )
