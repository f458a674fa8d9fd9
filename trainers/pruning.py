"""Some layers of a model as a model of its own.

Layers differ by place: full or local attention, with or without rotary positions, dense or experts.
Configurations say so in lists, periods, counts and patterns. Each of these is rewritten for the layers
that stay; then the result is not trusted but compared, layer by layer and as a whole, with the model it
was cut from: what cannot be said in the configuration is refused, never approximated.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from kdbench.harness.errors import InputError
from kdbench.harness.foreign import foreign
from kdbench.trainers.batching import crossing

_SIZES = ("decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
_COUNTS = (
    "first_k_dense_replace",
    "num_dense_layers",
    "moe_layer_start_index",
    "max_window_layers",
)
_INDICES = (
    "mlp_only_layers",
    "attn_layer_indices",
    "full_attn_idxs",
    "hybrid_layer_ids",
    "moe_layers",
)
_PLACES = {"layer_idx", "layer_id", "layer_index", "layer_number", "idx", "block_idx", "training"}
_PLAIN = (bool, int, float, str, type(None))


class Layers(NamedTuple):
    """Where a model's layers are: the name of their list, with a dot, and the list."""

    prefix: str
    modules: nn.ModuleList


def layers_of(model: PreTrainedModel) -> Layers:
    """The list of layers of the language model inside.

    Raises:
        InputError: there is none of the length that the configuration names.
    """
    total = depth(model.config)
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == total
    }
    for others in (("vision", "visual", "audio", "encoder."), ("vision", "visual", "audio")):
        for name, module in lists.items():
            if not any(part in name for part in others):
                return Layers(f"{name}.", module)
    raise InputError(
        f"cannot find the list of {total} layers inside {type(model).__name__}, so it cannot be pruned; "
        "use a student folder instead of prune:N"
    )


def depth(config: PretrainedConfig) -> int:
    """Number of layers of a causal language model."""
    text = config.get_text_config()
    named = text.to_dict()
    found = next((named[name] for name in _SIZES if named.get(name)), None)
    return int(text.num_hidden_layers if found is None else found)


def with_layers(model: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """A new model made of some of a model's layers, in float32 and eval mode, sharing no memory.

    Raises:
        InputError: no model of this architecture computes what this one does without the others.
    """
    found = layers_of(model)
    total = len(found.modules)
    refused = InputError(
        f"prune:{len(layers)} cannot be made of {type(model).__name__}: its layers differ by their "
        f"place, and no configuration of it computes what layers {_listed(layers)} of {total} compute "
        "here; choose another number of layers, or a student folder"
    )
    config = thinned(model.config, total, layers)
    try:
        student = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        kept = layers_of(student).modules
        if any(not alike(found.modules[i], kept[j]) for j, i in enumerate(layers)):
            raise refused
        student.load_state_dict(_weights(model, found.prefix, layers))
        for tensor in [*student.parameters(), *student.buffers()]:
            tensor.data = tensor.data.clone()
        student = student.eval()
        if not same_function(student, model, layers):
            raise refused
    except InputError:
        raise
    except (
        Exception
    ) as error:  # of transformers: a configuration that it does not take, other shapes
        raise refused from error
    return student


def _listed(layers: list[int]) -> str:
    return ", ".join(str(i + 1) for i in layers)


def _weights(model: PreTrainedModel, prefix: str, layers: list[int]) -> dict[str, torch.Tensor]:
    place = {old: new for new, old in enumerate(layers)}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            index, rest = name[len(prefix) :].split(".", 1)
            if int(index) not in place:
                continue
            name = f"{prefix}{place[int(index)]}.{rest}"
        floating = tensor.is_floating_point()
        weights[name] = tensor.to(torch.float32) if floating else tensor
    return weights


# -- the configuration


def thinned(config: PretrainedConfig, total: int, layers: list[int]) -> PretrainedConfig:
    """A configuration for some of ``total`` layers, as well as it can be said in its fields."""
    whole = config.to_dict()
    text_config = config.get_text_config()
    text = whole
    if text_config is not config:
        name = next(k for k, v in vars(config).items() if v is text_config)
        text = whole[name]
    text |= _thinned_fields(dict(text), total, layers)
    return type(config).from_dict(whole)


def _thinned_fields(text: dict[str, Any], total: int, layers: list[int]) -> dict[str, Any]:
    place = {old: new for new, old in enumerate(layers)}
    out: dict[str, Any] = {n: len(layers) for n in _SIZES if text.get(n) == total}
    for name, value in text.items():
        if name in _INDICES and isinstance(value, list | tuple):
            out[name] = [place[i] for i in value if i in place]
        elif isinstance(value, list | tuple) and len(value) == total and total > 1:
            out[name] = [value[i] for i in layers]
        elif isinstance(value, str) and len(value) == total > 1 and "pattern" in name:
            out[name] = "".join(value[i] for i in layers)
        elif name in _COUNTS and type(value) is int:
            out[name] = sum(i < value for i in layers)
    return out | _periods(text, layers) | _sparse(text, layers) | _tiled(text, layers)


def _periods(text: dict[str, Any], layers: list[int]) -> dict[str, Any]:
    """Every n-th layer, from an offset on (Jamba)."""
    out: dict[str, Any] = {}
    for name, period in text.items():
        offset = text.get(f"{name.removesuffix('_period')}_offset")
        if not name.endswith("_period") or type(period) is not int or type(offset) is not int:
            continue
        wanted = [i % period == offset for i in layers]
        tries = [(p, o) for p in range(1, len(layers) + 2) for o in range(p)]
        for every, first in tries:
            if [j % every == first for j in range(len(layers))] == wanted:
                out |= {name: every, f"{name.removesuffix('_period')}_offset": first}
                break
    return out


def _sparse(text: dict[str, Any], layers: list[int]) -> dict[str, Any]:
    """Every n-th layer has experts, but for some (Qwen-MoE): said as a list of those that have none."""
    step = text.get("decoder_sparse_step")
    if type(step) is not int or step < 1 or "mlp_only_layers" not in text:
        return {}
    dense = text["mlp_only_layers"] or ()
    without = [j for j, i in enumerate(layers) if i in dense or (i + 1) % step]
    return {"decoder_sparse_step": 1, "mlp_only_layers": without}


def _tiled(text: dict[str, Any], layers: list[int]) -> dict[str, Any]:
    """Patterns that are repeated over the layers (RecurrentGemma, GPT-Neo)."""
    out: dict[str, Any] = {}
    for name in ("block_types", "_block_types"):
        if pattern := text.get(name):
            out[name] = [pattern[i % len(pattern)] for i in layers]
    if types := text.get("attention_types"):  # [[kinds, repetitions], …]
        kinds = [kind for group, times in types for _ in range(times) for kind in group]
        out["attention_types"] = [[[kinds[i]], 1] for i in layers]
        out["attention_layers"] = [kinds[i] for i in layers]
    return out


# -- the comparison


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers are of one kind: modules, shapes and settings, whatever their weights."""
    return _kind(one) == _kind(other)


def _kind(layer: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    for name, module in layer.named_modules():
        found[f"{name}:"] = type(module)
        for key, value in vars(module).items():
            if type(value) in _PLAIN and key not in _PLACES and not key.startswith("_"):
                found[f"{name}:{key}"] = value
    return found


@contextmanager
def only(model: PreTrainedModel, layers: list[int]) -> Iterator[None]:
    """The model with all other layers passing on what they are given, every layer in its place."""

    def skip(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return given if isinstance(output, torch.Tensor) else (given, *output[1:])

    with ExitStack() as hooks:
        for index, layer in enumerate(layers_of(model).modules):
            if index not in layers:
                handle = layer.register_forward_hook(skip, with_kwargs=True)
                hooks.callback(handle.remove)
        yield


@torch.no_grad()
def same_function(student: PreTrainedModel, model: PreTrainedModel, layers: list[int]) -> bool:
    """Whether the student computes what the model does without the other layers."""
    length = max(16, crossing(model))
    embeddings: Any = student.get_input_embeddings()
    vocab = embeddings.weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(vocab, 1 << 20), (1, length), generator=generator)
    training, logits = model.training, _logits(ids)
    model.eval()
    try:
        with only(model, layers):
            expected = logits(model)
    finally:
        model.train(training)
    gap = (logits(student) - expected).abs().max()
    half = next(model.parameters()).dtype.itemsize == 2
    return bool(gap <= (0.05 if half else 1e-4) * expected.abs().max().clamp_min(1e-12))


def _logits(ids: torch.Tensor) -> Callable[[PreTrainedModel], torch.Tensor]:
    def run(model: PreTrainedModel) -> torch.Tensor:
        return model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()

    return run


# -- a few layers in place of all


def shortest(config: PretrainedConfig) -> int:
    """How many first layers hold every kind of layer that a model has; at least two if it has two.

    Args:
        config: of a causal language model; it is built without weights.

    Raises:
        InputError: its layers are not found.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    kinds = [_kind(layer) for layer in layers_of(model).modules]
    declared = list(getattr(config.get_text_config(), "layer_types", None) or [None] * len(kinds))
    every = list(zip(kinds, declared, strict=False))
    return max(min(2, len(every)), *(every.index(kind) + 1 for kind in every))


def load_first_layers(ref: str, config: PretrainedConfig, keep: int) -> PreTrainedModel:
    """The first layers of a model in a folder, with its embeddings and head, in float32: a stand-in.

    Only their weights are read. What a full load verifies (see `kdbench.trainers.load_report`) is
    not verified here.

    Raises:
        InputError: the architecture cannot be cut like that.
    """
    cut = thinned(config, depth(config), list(range(keep)))
    with foreign(f"cannot load the first {keep} layers of {ref!r}", "choose another model"):
        model = AutoModelForCausalLM.from_pretrained(
            ref, config=cut, dtype=torch.float32, use_safetensors=True
        )
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return model.eval()
