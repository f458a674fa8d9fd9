"""Models that are read by shares: every process reads its part of every tensor from the files, one at a time.

Of a model on disk first only names and shapes are read (`find_unread`); once it is shared among processes
(`kdbench.trainers.parallel.sharding`), `read_shares` fills it. No process holds more than its part and one
tensor's, and nothing is sent. What `kdbench.trainers.load_report` judges by values is judged of the parts
and put together, so that all processes refuse a model alike and none waits for another.
"""

import math
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from kdbench.harness.foreign import foreign
from kdbench.trainers.load_report import (
    LARGEST,
    LoadReport,
    finite,
    in_order,
    refuse_unclean,
)
from kdbench.trainers.lora.merging import plain_name
from kdbench.trainers.model_folder import ModelFolder, inspect_folder
from kdbench.trainers.models import without_values
from kdbench.trainers.parallel.ranks import together
from kdbench.trainers.parallel.tensors import own_part
from kdbench.trainers.safetensors_header import AGAIN


class Place(NamedTuple):
    """A tensor of a file."""

    file: Path
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A model that has shapes and no values yet.

    Attributes:
        model: its parameters are on ``meta``; it may be shared, moved to another precision, and get adapters.
        ref: its folder.
        dtype: to which values are rounded when they are read, whatever the model has later.
        places: where its parameters and persistent buffers lie; a tied one may lie in several.
    """

    model: PreTrainedModel
    ref: str
    dtype: torch.dtype
    places: dict[str, tuple[Place, ...]]


def find_unread(ref: str, *, dtype: torch.dtype) -> Unread | None:
    """A model in a folder without its values; None: it has to be loaded whole.

    Raises:
        InputError: its names or shapes are not its architecture's, or nothing loadable is there.
    """
    if not Path(ref).is_dir():
        return None
    model = without_values(ref, dtype=dtype)
    places = None if model is None else _places(model, inspect_folder(ref))
    if model is None or places is None:
        return None
    return Unread(model=model, ref=ref, dtype=dtype, places=places)


def _places(model: PreTrainedModel, folder: ModelFolder) -> dict[str, tuple[Place, ...]] | None:
    """Where everything lies that a model stores; None: something is not there under its name."""
    prefix = f"{model.base_model_prefix}."
    found: dict[str, tuple[Place, ...]] = {}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, aliases in _stored(model):
        # a checkpoint of the model without its head has names without the prefix
        names = [n for a in aliases for n in (a, a.removeprefix(prefix)) if n in folder.tensors]
        if any(folder.tensors[n].shape != shapes[name] for n in names):
            return None
        if not names and name in dict(model.named_parameters()):
            return None
        found[name] = tuple(Place(folder.places[n], n) for n in dict.fromkeys(names))
    return found


def _stored(model: PreTrainedModel) -> Iterator[tuple[str, list[str]]]:
    """Names of parameters and persistent buffers, and all names of each."""
    aliases: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(tensor), []).append(name)
    yield from ((names[0], names) for names in aliases.values())
    kept = model.state_dict().keys()
    yield from ((name, [name]) for name, _ in model.named_buffers() if name in kept)


@dataclass(slots=True)
class _Seen:
    """What one process found in its parts."""

    infinite: set[str] = field(default_factory=set)
    untied: set[tuple[str, str]] = field(default_factory=set)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


def read_shares(models: Seq[Unread]) -> None:
    """Fills models with what their files hold, of shared tensors this process's part; a collective.

    Raises:
        InputError: files cannot be read, or hold no weights of this architecture; on all processes.
    """
    for each in models:
        mine = together(lambda: _filled(each))  # noqa: B023
        seen: list[_Seen] = gather_object([mine])
        refuse_unclean(_report(seen), each.model.config, each.ref)


@torch.no_grad()
def _filled(unread: Unread) -> _Seen:
    model, seen = unread.model, _Seen()
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    embeddings = [getattr(module, "weight", None) for module in ends]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if not (places := unread.places.get(plain_name(name))):
            continue
        mine, rows = own_part(tensor)
        if not mine.numel():
            continue
        first, *others = places
        value = _read(first, rows)
        seen.untied |= {(o.name, first.name) for o in others if not value.equal(_read(o, rows))}
        mine.copy_(value.to(unread.dtype) if value.is_floating_point() else value)
        limit = LARGEST if isinstance(tensor, torch.nn.Parameter) else math.inf
        if not finite(mine, limit):
            seen.infinite.add(name)
        if any(tensor is each for each in embeddings):
            low, high = torch.aminmax(mine)
            seen.ranges[name] = float(low), float(high)
    return seen


def _read(place: Place, rows: slice) -> Tensor:
    """Rows of a tensor of a file. It is opened for each, so that nothing of the last stays mapped."""
    with (
        foreign(f"cannot read {place.file}", AGAIN),
        safe_open(place.file, framework="pt") as opened,
    ):
        if rows == slice(None):
            return opened.get_tensor(place.name)
        return opened.get_slice(place.name)[rows]


def _report(seen: Iterable[_Seen]) -> LoadReport:
    """One report on a model of what each process found in its part."""
    ranges: dict[str, list[tuple[float, float]]] = {}
    for each in seen:
        for name, found in each.ranges.items():
            ranges.setdefault(name, []).append(found)
    return LoadReport(
        infinite=in_order({name for each in seen for name in each.infinite}),
        untied=tuple(sorted({pair for each in seen for pair in each.untied})),
        constant=in_order(
            name
            for name, found in ranges.items()
            if min(low for low, _ in found) == max(high for _, high in found)
        ),
    )
