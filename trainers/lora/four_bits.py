"""QLoRA: the linear layers of a frozen base in four bits; the door to bitsandbytes.

NF4 with double quantisation, 4.13 bits a weight. Source: arXiv:2305.14314, section 3.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdbench.harness.errors import InputError


def layers_for(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """The layers that `quantise` changes: linear ones but the head, by exact type."""
    head = model.get_output_embeddings()
    named = model.named_modules()
    return ((name, m) for name, m in named if type(m) is nn.Linear and m is not head)


def quantise(model: PreTrainedModel, device: torch.device) -> None:
    """Puts four bits in the place of each weight, layer by layer; the rest goes to the device as it is.

    Args:
        model: frozen, in the precision in which its layers shall multiply.
        device: on which it will run; no more than one layer is there in full precision.

    Raises:
        InputError: bitsandbytes is missing.
    """
    library = bitsandbytes()
    for name, layer in list(layers_for(model)):
        place, _, last = name.rpartition(".")
        weight = library.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        small = library.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=layer.weight.dtype,
            quant_type="nf4",
            compress_statistics=True,
            device="meta",
        )
        small.weight, small.bias = weight, layer.bias
        # where a CPU has AVX512-BF16, evaluation would lay the weight out anew for good, with scales rounded
        # to bfloat16: other numbers than in training and in the merged student, and no narrow layers
        small.support_avx512bf16_for_cpu = False
        setattr(model.get_submodule(place), last, small.to(device))
    nn.Module.to(model, device)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # what PEFT asks


def in_four_bits(layer: nn.Module) -> bool:
    """Whether a layer, without its adapter, holds four bits a weight."""
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def widened(layer: nn.Module) -> Tensor:
    """The weight that a layer in four bits multiplies by, (out, in), in the precision of its products."""
    weight: Any = layer.weight
    made: Tensor = bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state)
    return made


def bitsandbytes() -> Any:
    """The library, which is needed here only.

    Raises:
        InputError: it is not installed.
    """
    try:
        import bitsandbytes as library
    except ImportError:
        raise InputError(
            "four bits (QLoRA) need the package bitsandbytes; install it with: pip install 'kdbench[qlora]'"
        ) from None
    return library
