"""Whether the weights of a checkpoint are those of its architecture: every tensor there, fitting, finite.

transformers fills what is missing or misnamed with random numbers and says so in a log. Here its own
loading info, which knows tied tensors and what an architecture declares as ignorable, becomes a report,
and a report that is not clean is refused: no weight of a model is ever random by accident.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import (  # type: ignore[attr-defined]
    CONFIG_MAPPING_NAMES,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from kdbench.harness.errors import InputError, unknown
from kdbench.trainers.safetensors_header import Stored

WHOLE_NUMBERS = frozenset({"U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"})
NAMED = 3
"""Tensors that a sentence names at most."""
LONG = 120
"""Characters of a name that a sentence shows."""
LARGEST = 1e18
"""Beyond it squares overflow, gradients first; what is there is a flipped bit, not a weight."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What does not fit between a checkpoint's tensors and its architecture's.

    Attributes:
        missing: tensors that the architecture has and the checkpoint lacks.
        unexpected: tensors that the checkpoint has and the architecture has no place for.
        mismatched: tensors of another shape: name, shape stored, shape wanted.
        untied: pairs that the configuration makes one tensor and the checkpoint holds as two.
        whole: tensors stored as whole numbers where weights are wanted.
        infinite: tensors with values that are NaN, infinite, or beyond `LARGEST`.
        constant: embeddings of which all values are equal, as in a file of zeros.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    untied: tuple[tuple[str, str], ...] = ()
    whole: tuple[str, ...] = ()
    infinite: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether the model is what its files say."""
        return not self.problems()

    def problems(self) -> list[str]:
        """A phrase for each kind of what does not fit; empty if clean."""
        shapes = [
            f"{n} ({_shape(stored)}, wanted {_shape(want)})" for n, stored, want in self.mismatched
        ]
        pairs = [f"{one} and {other}" for one, other in self.untied]
        kinds = [
            ("missing: ", self.missing),
            ("of another shape: ", shapes),
            ("left over: ", self.unexpected),
            ("whole numbers instead of weights: ", self.whole),
            ("in ", self.infinite),
            ("all values equal: ", self.constant),
            ("tied by config.json but stored with different values: ", pairs),
        ]
        return [what + listed(names) for what, names in kinds if names]


def load_report(
    model: PreTrainedModel, info: Mapping[str, Any], stored: Mapping[str, Stored]
) -> LoadReport:
    """The report on a model that was just loaded; of one on ``meta``, what names and shapes tell.

    Args:
        model: with the weights of its checkpoint.
        info: what ``from_pretrained(output_loading_info=True, ignore_mismatched_sizes=True)`` says.
        stored: tensors of its files by the names they have there; empty where nobody looked.
    """
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return LoadReport(
        missing=in_order(info["missing_keys"]),
        unexpected=in_order(info["unexpected_keys"]),
        mismatched=tuple(
            (name, tuple(stored), tuple(want))
            for name, stored, want in sorted(info["mismatched_keys"], key=lambda m: _natural(m[0]))
        ),
        untied=tuple(
            (one, other)
            for one, other in tied.items()
            if one in parameters
            and other in parameters
            and parameters[one] is not parameters[other]
            and parameters[one].device.type != "meta"  # values would have to be compared
        ),
        whole=in_order(
            name
            for name, tensor in stored.items()
            if tensor.dtype in WHOLE_NUMBERS
            and not {name, f"{model.base_model_prefix}.{name}"}.isdisjoint(parameters)
        ),
        infinite=tuple(not_finite(model)),
        constant=tuple(_constant(model, parameters)),
    )


def _constant(
    model: PreTrainedModel, parameters: Mapping[str, torch.nn.Parameter]
) -> Iterator[str]:
    """Names of embeddings, in or out, in which no token differs from another."""
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = getattr(module, "weight", None)
        if weight is not None and weight.device.type != "meta" and weight.numel() > 1:
            low, high = torch.aminmax(weight.detach())
            if low == high:
                yield next(name for name, each in parameters.items() if each is weight)


def not_finite(model: torch.nn.Module) -> Iterator[str]:
    """Names of parameters and buffers with a value that is NaN, infinite or beyond `LARGEST`.

    Buffers (masks, rotary tables) are not weights: of them infinity counts as a value.
    """
    limits = chain(
        ((*pair, LARGEST) for pair in model.named_parameters()),
        ((*pair, math.inf) for pair in model.named_buffers()),
    )
    for name, tensor, limit in limits:
        if tensor.device.type != "meta" and not finite(tensor, limit):
            yield name


def finite(tensor: torch.Tensor, limit: float) -> bool:
    """Whether no value is NaN or beyond ``limit``."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # one pass, nothing allocated; NaN stays through both, and is not below anything
    low, high = torch.aminmax(tensor.detach())
    return bool(low.abs() <= limit and high.abs() <= limit)


def refuse_unclean(report: LoadReport, config: PretrainedConfig, ref: str) -> None:
    """Raises InputError, naming tensors, if a report is not clean."""
    if report.clean:
        return
    what = "; ".join(report.problems())
    if report.missing or report.unexpected or report.mismatched:
        raise InputError(
            f"the weights of {ref!r} are not those of the architecture that its config.json names "
            f"({config.model_type}): {what}; use the config.json and the weights of one model, saved or "
            "downloaded together"
        )
    if report.infinite:
        raise InputError(
            f"the weights of {ref!r} hold values that are NaN, infinite or beyond {LARGEST:g} ({what}); they "
            "are damaged or from a training that diverged: use an earlier or another checkpoint"
        )
    if report.whole or report.constant:
        raise InputError(
            f"the weights of {ref!r} are no trained weights ({what}), as of a file that was quantised or "
            "only begun to be written; download or copy the model again"
        )
    raise InputError(
        f"the weights of {ref!r} do not fit its config.json, {what}; set tie_word_embeddings to false "
        "there, or remove the tensor that is not meant"
    )


def refuse_unknown(config: Mapping[str, Any], ref: str) -> None:
    """Raises InputError for a ``config.json`` of an architecture that transformers does not have."""
    kind = config.get("model_type")
    if kind in CONFIG_MAPPING_NAMES:
        return
    if "auto_map" in config:
        raise InputError(
            f"{ref!r} ({kind}) needs code of its own (auto_map in its config.json), and kdbench runs no "
            "code from model folders; choose a model whose architecture transformers has"
        )
    raise unknown("architecture", str(kind), CONFIG_MAPPING_NAMES, f" (model_type of {ref!r})")


def refuse_other_kinds(config: PretrainedConfig, ref: str) -> None:
    """Raises InputError for a configuration of anything but a causal language model of text."""
    kind = config.model_type
    advice = "kdbench trains and measures causal language models of text; choose one"
    named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{ref!r} is an encoder-decoder model ({kind}); {advice}")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or named is None:
        raise InputError(f"{ref!r} is a {kind} model, which is no causal language model; {advice}")
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (
        getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    ):
        raise InputError(
            f"{ref!r} is an encoder ({kind}, without is_decoder: true in its config.json), whose words "
            f"see the words after them; {advice}"
        )


def listed(names: Iterable[str]) -> str:
    """A few names and how many more there are."""
    found = list(names)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(n if len(n) <= LONG else f"{n[:LONG]}…" for n in found[:NAMED]) + more


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of tensors, layer 10 after layer 9."""
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]


def _shape(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "one number"
