"""Adapters in a model, and in a folder of their own: the door to PEFT."""

import json
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kdbench.harness.errors import LISTED, InputError
from kdbench.harness.files.folders import new_folder
from kdbench.trainers.lora.four_bits import bitsandbytes, layers_for, quantise
from kdbench.trainers.lora.merging import ADAPTER, Adapted, named_weight, weight_of
from kdbench.trainers.lora.settings import ALL, Lora
from kdbench.trainers.outline import Whole

LINEAR = (nn.Linear, Conv1D)
"""Layers that can have an adapter, by exact type: what is quantised computes something else."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What adapters are trained on.

    Attributes:
        load: gives it as its files are, in float32.
        name: of it, by content.
    """

    load: Callable[[], PreTrainedModel]
    name: str


# -- what fits


def refuse_unfit(config: PretrainedConfig, lora: Lora, setting: str) -> None:
    """Refuses adapters that a model cannot have, from its configuration alone.

    Args:
        config: of the model; it is built without weights.
        lora: what is asked for.
        setting: where, as ``train.lora``.

    Raises:
        InputError: PEFT is missing, or a target or the rank does not fit.
    """
    _peft()
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{setting}: adapters on a base that comes quantised are not supported, since the student that "
            "is kept is the base with its adapters merged, in plain weights; give the model that it was "
            f"quantised from, and for QLoRA --set {setting}.quantize=nf4"
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    chosen(model, lora, setting)
    if lora.quantize:
        bitsandbytes()
        if not any(layers_for(model)):
            raise InputError(
                f"{setting}.quantize: {config.model_type} has no layers of type Linear but its head, and "
                "only these can be in four bits; leave it out"
            )


def chosen(model: PreTrainedModel, lora: Lora, setting: str = "lora") -> dict[str, nn.Module]:
    """The layers that get an adapter, by name.

    Raises:
        InputError: a target is no layer, no linear one, or a head that cannot have one; or r is larger
            than a layer.
    """
    found: dict[str, nn.Module] = {}
    for target in lora.targets:
        matching = dict(_matching(model, target))
        if not matching:
            raise InputError(
                f"{setting}.targets: {model.config.model_type} has no linear layer called {target!r}; it has "
                f"{_names(model)}"
            )
        found |= matching
    for name, layer in found.items():
        _refuse_layer(model, name, layer, lora, setting)
    return found


def _matching(model: PreTrainedModel, target: str) -> Iterator[tuple[str, nn.Module]]:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if target == ALL:
            fits = type(module) in LINEAR and module is not head
        else:
            fits = f".{name}".endswith(f".{target}")
        if fits:
            yield name, module


def _names(model: PreTrainedModel) -> str:
    names = [n.rpartition(".")[2] for n, m in model.named_modules() if type(m) in LINEAR]
    return ", ".join(list(dict.fromkeys(names))[:LISTED])


def _refuse_layer(
    model: PreTrainedModel, name: str, layer: nn.Module, lora: Lora, setting: str
) -> None:
    if type(layer) not in LINEAR:
        raise InputError(
            f"{setting}.targets: {name} is of type {type(layer).__name__}, and only linear layers can have "
            f"an adapter; choose from {_names(model)}"
        )
    if layer is model.get_output_embeddings():
        if model.get_input_embeddings().weight is layer.weight:
            raise InputError(
                f"{setting}.targets: the head {name} is tied to the embeddings, which would have to change "
                f"with it; leave it out, or use {ALL}"
            )
        if lora.dropout:
            raise InputError(
                f"{setting}.dropout cannot be had on the head {name}, whose logits are computed in tiles; "
                "leave the head out of the targets, or the dropout"
            )
    smaller = min(weight_of(layer).shape)
    if lora.r > smaller:
        raise InputError(
            f"{setting}.r is {lora.r}, but {name} has only {smaller} units on one side, so an adapter would "
            f"be larger than its layer; choose an r of at most {smaller}"
        )


# -- into a model


def adapt(
    model: PreTrainedModel,
    lora: Lora,
    *,
    seed: int,
    device: torch.device | None = None,
    base: Base | None = None,
) -> Adapted:
    """Puts adapters into a model and freezes all else; it computes what it did until they are trained.

    In four bits it computes nearly that.

    Args:
        model: in the precision that it runs in; is changed.
        lora: which adapters.
        seed: of their first values, which do not touch the global generator.
        device: where it goes; None: it stays.
        base: the model as its files are; None: as it is here.

    Returns:
        The model and its plain twin. Adapters are float32, or float64 if the model is.

    Raises:
        InputError: as `chosen`, or a package is missing.
    """
    peft = _peft()
    plain = Whole(model, partial(named_weight, model))
    names = list(chosen(model, lora))
    if lora.quantize:
        quantise(model, device or model.device)
    elif device is not None:
        nn.Module.to(model, device)
    layers = {name: model.get_submodule(name) for name in names}
    before = {id(p) for p in model.parameters()}
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.strength,
        lora_dropout=lora.dropout,
        target_modules=_target_modules(model, lora, layers),
        fan_in_fan_out=all(type(layer) is Conv1D for layer in layers.values()),
    )
    training = model.training
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers stored the other way, which PEFT sees by itself
        torch.manual_seed(seed)
        with _seen_as_read(layers.values()):
            peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    model.train(training)
    for parameter in model.parameters():
        own = id(parameter) not in before
        parameter.requires_grad_(own)
        if own:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    bare = partial(named_weight, model, adapter=False)
    load = base.load if base else lambda: Whole(plain.outline, bare).frozen().float()
    name = base.name if base else ""
    return Adapted(model=model, plain=plain, lora=lora, load_base=load, base_name=name)


@contextmanager
def _seen_as_read(layers: Collection[nn.Module]) -> Iterator[None]:
    """Has layers without values look as if they were read, so that adapters on them get theirs.

    PEFT gives those the device of their layer, on ``meta`` none.
    """
    empty = [
        (layer, weight) for layer in layers if (weight := weight_of(layer)).device.type == "meta"
    ]
    for layer, weight in empty:
        stands = torch.empty((), dtype=weight.dtype).expand(weight.shape)  # takes no memory
        layer.weight = nn.Parameter(stands, requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in empty:
            layer.weight = weight


def _target_modules(model: PreTrainedModel, lora: Lora, layers: dict[str, nn.Module]) -> list[str]:
    """The chosen layers as PEFT is told of them: short names where they mean just these."""
    if lora.targets != (ALL,):
        return list(lora.targets)
    short = sorted({name.rpartition(".")[2] for name in layers})
    meant = {name for target in short for name, _ in _matching(model, target)}
    return short if meant == layers.keys() else sorted(layers)


def _peft() -> Any:
    """PEFT, which is large and needed here only.

    Raises:
        InputError: it is not installed.
    """
    try:
        import peft
    except ImportError:
        raise InputError(
            "LoRA needs the package peft; install it with: pip install 'kdbench[lora]'"
        ) from None
    return peft


# -- in a folder


def write_adapter(adapted: Adapted, weights: Mapping[str, Tensor], place: Path) -> None:
    """An adapter as PEFT loads it: safetensors and ``adapter_config.json``, equal bytes for equal ones.

    Args:
        adapted: what it is of.
        weights: its own, see `Adapted.weights`.
        place: the folder.
    """
    made: Any = adapted.model.peft_config
    config = made[ADAPTER].to_dict() | {
        "base_model_name_or_path": adapted.base_name or None,
        "inference_mode": True,
        "task_type": "CAUSAL_LM",
    }
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    tensors = {name: t.cpu().contiguous() for name, t in weights.items()}
    with new_folder(place) as folder:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(plain, indent=2, sort_keys=True, default=str)
        (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")


def parameters_in(place: Path) -> int:
    """How many numbers an adapter's folder holds."""
    with safe_open(place / WEIGHTS, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
