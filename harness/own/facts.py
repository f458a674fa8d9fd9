"""What is measured of a pair and its rows: headers, configurations and tokenizers; no weights are read."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from kdbench.harness.config import DataConfig
from kdbench.harness.contents import local_copy
from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import PromptFormat, render
from kdbench.harness.data.tokens import encode, opening
from kdbench.harness.own.settings import Facts, Lengths, template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MEASURED = 2000
"""Rows whose lengths are measured, evenly spread over the data."""
FEW = 20
"""Texts below which the longest of them counts, too."""
_LAYER = re.compile(r"\.(?:h|layers|blocks)\.(\d+)\.")


class Sized(NamedTuple):
    """A model before it is loaded: its size, its layers' share of it, and what it can read."""

    parameters: int
    in_layers: int
    layers: int
    context: int | None


class Written(NamedTuple):
    """How prompts are written: what is asked for of it.

    Attributes:
        data: has date, arguments and begin token.
        template: None: by the student's tokenizer (`template_of`).
        of_tasks: that of test rows; None: the same.
    """

    data: DataConfig
    template: str | None = None
    of_tasks: str | None = None


def measure(
    teacher: str,
    student: str,
    examples: Sequence[Example],
    *,
    tests: Sequence[Example] = (),
    asked: Written,
    device: str,
) -> Facts:
    """The facts of a pair and its training rows.

    Args:
        teacher: hub id, folder or .gguf file.
        student: the same, ``prune:N`` or a model's config.json.
        examples: of training.
        tests: rows to judge by; their prompts have to fit, too.
        asked: how prompts are written.
        device: cpu or cuda.

    Raises:
        InputError: a model that cannot be had, or rows that its template cannot write.
    """
    from kdbench.trainers.models import PRUNE, compare, load_tokenizer

    big = sized(teacher)
    tokenizer = its = load_tokenizer(str(local_copy(teacher)))
    kind: Literal["whole", "pruned", "random"] = "whole"
    if found := PRUNE.match(student):
        kind, small = "pruned", pruned(big, int(found.group(1)))
    elif student.endswith(".json"):
        kind, small = "random", initialised(student)
    else:
        small, tokenizer = sized(student), load_tokenizer(str(local_copy(student)))
    turns = any(getattr(example, "turns", ()) for example in examples)
    chat = bool(getattr(tokenizer, "chat_template", None))
    template = asked.template or template_of(chat=chat, turns=turns)
    prompts, answers = _lengths(examples, tokenizer, asked.data.form(template))
    if tests:
        form = asked.data.form(asked.of_tasks or template)
        theirs, _ = _lengths(tests, tokenizer, form)
        prompts = Lengths(prompts.mean, *map(max, prompts[1:], theirs[1:]))
    contexts = [each for each in (big.context, small.context) if each]
    return Facts(
        teacher=big.parameters,
        student=small.parameters,
        student_is=kind,
        context=min(contexts, default=None),
        chat=chat,
        turns=turns,
        one_tokenizer=tokenizer is its or bool(compare(tokenizer, its).shared),
        rows=len(examples),
        prompts=prompts,
        answers=answers,
        device=device,
    )


def sized(ref: str) -> Sized:
    """The size of a model by its headers.

    Raises:
        InputError: it cannot be had, or is none.
    """
    from kdbench.trainers.model_folder import inspect_folder
    from kdbench.trainers.models import config_from
    from kdbench.trainers.sampler.sampler import context_length

    local = local_copy(ref)
    if local.is_file():
        shapes = _gguf_shapes(local)
    else:
        tensors = inspect_folder(local).tensors
        shapes = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    config = config_from(str(local))
    inside = sum(count for name, count in shapes.items() if _LAYER.search(f".{name}"))
    layers = int(getattr(config.get_text_config(), "num_hidden_layers", 0) or 0)
    return Sized(sum(shapes.values()), inside, layers, context_length(config))


def _gguf_shapes(file: Path) -> dict[str, int]:
    from gguf import GGUFReader

    return {
        tensor.name.replace("blk.", "layers."): int(tensor.n_elements)
        for tensor in GGUFReader(file).tensors
    }


def pruned(model: Sized, keep: int) -> Sized:
    """The size of ``prune:keep`` of a model."""
    layers = max(model.layers, 1)
    inside = model.in_layers * min(keep, layers) // layers
    parameters = model.parameters - model.in_layers + inside
    return Sized(parameters, inside, keep, model.context)


def initialised(file: str) -> Sized:
    """The size of a model that a config.json describes."""
    import torch
    from transformers import AutoModelForCausalLM

    from kdbench.trainers.models import config_from
    from kdbench.trainers.sampler.sampler import context_length

    config = config_from(file)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in model.parameters())
    return Sized(parameters, 0, 0, context_length(config))


def _lengths(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", form: PromptFormat
) -> tuple[Lengths, Lengths]:
    every = math.ceil(len(examples) / MEASURED)
    some = examples[::every]
    prompts = [render(example, form, tokenizer) for example in some]
    asked = encode(tokenizer, prompts, opening(tokenizer, form))
    answered = encode(tokenizer, ["".join(example.references[:1]) for example in some])
    return _of([len(ids) for ids in asked]), _of([len(ids) + 1 for ids in answered])


def _of(counts: list[int]) -> Lengths:
    """Mean, what all but the longest hundredth have at most, and the longest.

    The hundredth is one text at least: else a single long row would set the lengths of a small data set.
    """
    ordered = sorted(counts)
    left_out = max(1, len(ordered) // 100) if len(ordered) >= FEW else 0
    return Lengths(sum(ordered) / len(ordered), ordered[-1 - left_out], ordered[-1])
