"""Where an adapter and its layer become one weight: for the head, for sampling, for the exported student.

The layers are PEFT's; here only what they offer is used, so nothing of PEFT is imported.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdbench.trainers.lora.four_bits import in_four_bits, widened
from kdbench.trainers.lora.settings import Lora
from kdbench.trainers.outline import Whole
from kdbench.trainers.parallel.tensors import whole

ADAPTER = "default"
"""PEFT's name of the adapter; a model has one."""


def is_adapted(layer: nn.Module) -> bool:
    """Whether a layer carries an adapter."""
    return hasattr(layer, "get_delta_weight")


def weight_of(layer: nn.Module) -> Tensor:
    """The weight that a linear layer multiplies by, its adapter included; differentiable."""
    weight = base_weight(layer)
    return _plus(weight, _delta(layer)) if is_adapted(layer) else weight


def base_weight(layer: nn.Module) -> Tensor:
    """The same without the adapter."""
    base = layer_of(layer)
    weight: Tensor = widened(base) if in_four_bits(base) else base.weight  # type: ignore[assignment]
    return weight


def layer_of(layer: nn.Module) -> nn.Module:
    """The layer that an adapter is on; a layer without one itself."""
    adapted: Any = layer
    return adapted.get_base_layer() if is_adapted(layer) else layer


def plain_name(name: str) -> str:
    """What a weight is called where no layer has an adapter."""
    return name.replace(".base_layer.", ".")


def named_weight(model: PreTrainedModel, name: str, *, adapter: bool = True) -> Tensor:
    """A weight by the name that it has without adapters; that of an adapted layer with its adapter in it."""
    place, _, part = name.rpartition(".")
    layer = model.get_submodule(place)
    if part != "weight":
        found: Tensor = getattr(layer_of(layer), part)
        return found
    return weight_of(layer) if adapter else base_weight(layer)


def _delta(layer: Any) -> Tensor:
    with torch.autocast(layer.lora_A[ADAPTER].weight.device.type, enabled=False):
        delta: Tensor = layer.get_delta_weight(ADAPTER)  # weights are not activations
        return delta


def _plus(weight: Tensor, delta: Tensor) -> Tensor:
    """A base's weight plus the adapter, in the wider of their precisions."""
    return weight.to(torch.promote_types(weight.dtype, delta.dtype)) + delta.to(weight.device)


@dataclass(eq=False, kw_only=True)
class Adapted:
    """A model with adapters.

    Attributes:
        model: is trained; all but its adapters is frozen.
        plain: the same without adapters, which are in its weights while somebody needs it: adding and
            subtracting would wear the weights of ``model`` off, so these are others.
        lora: what was asked for.
        load_base: the model as its files are, in float32; the exported student is made of it.
        base_name: names it by content, in the adapter's folder.
    """

    model: PreTrainedModel
    plain: Whole
    lora: Lora
    load_base: Callable[[], PreTrainedModel]
    base_name: str

    def layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Layers with an adapter, by the names that they have in ``plain``."""
        return ((name, m) for name, m in self.model.named_modules() if is_adapted(m))

    def weights(self) -> dict[str, Tensor]:
        """The adapters' matrices, named as PEFT names them in files; of a shared model a collective."""
        return {
            f"base_model.model.{name}.{part}.weight": whole(
                getattr(layer, part)[ADAPTER].weight
            ).detach()
            for name, layer in self.layers()
            for part in ("lora_A", "lora_B")
        }

    @torch.no_grad()
    def agrees(self) -> bool:
        """Whether the adapters do what their merged weights do, tried with random ones.

        Code that reads a layer's weight past the layer would train as if there were no adapter.
        """
        ids = torch.arange(1, 9, device=self.model.device)[None]
        generator = torch.Generator().manual_seed(0)
        matrices: list[Tensor] = [
            layer.lora_B[ADAPTER].weight  # type: ignore[index, union-attr]
            for _, layer in self.layers()
        ]
        kept = [matrix.clone() for matrix in matrices]
        training = self.model.training
        self.model.eval()
        try:
            before = self.model(input_ids=ids, use_cache=False).logits
            for matrix in matrices:
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.02)
            beside = self.model(input_ids=ids, use_cache=False).logits
            with self.plain.lasting(None) as plain:
                inside = plain(input_ids=ids, use_cache=False).logits
        finally:
            self.model.train(training)
            for matrix, values in zip(matrices, kept, strict=True):
                matrix.copy_(values)
        moved = float((beside - before).abs().max())
        return float((beside - inside).abs().max()) <= 0.2 * moved

    @torch.no_grad()
    def merge_into(self, base: PreTrainedModel | None) -> None:
        """Merges the adapters into what `load_base` gives, which is then an ordinary model.

        Of a shared model a collective; processes without a base give None.
        """
        for name, layer in self._changed():
            delta = whole(_delta(layer)) if is_adapted(layer) else None
            if base is not None:
                place: Any = base.get_submodule(name)
                rounded = in_four_bits(layer_of(layer))
                weight = base_weight(layer) if rounded else place.weight.to(self.model.device)
                merged = weight if delta is None else _plus(weight, delta)
                place.weight = nn.Parameter(merged.to(place.weight.device, place.weight.dtype))
        if base is not None:
            base.generation_config = self.model.generation_config

    def _changed(self) -> Iterator[tuple[str, nn.Module]]:
        """Layers that multiply by another weight than their base's file has."""
        for name, layer in self.model.named_modules():
            below = plain_name(f"{name}.") != f"{name}."
            if is_adapted(layer) or (in_four_bits(layer) and not below):
                yield name, layer
