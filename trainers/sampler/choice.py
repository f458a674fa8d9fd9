"""Which decoder a model gets: the cheapest that computes what its plain forward pass does."""

from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from transformers import PretrainedConfig, PreTrainedModel

from kdbench.harness.errors import InputError, is_out_of_memory
from kdbench.harness.files.store import to_stderr
from kdbench.trainers.batching import LOCAL
from kdbench.trainers.cuda.graphs import Graphs, without_waiting
from kdbench.trainers.sampler.alone import AloneDecoder
from kdbench.trainers.sampler.decoders import Decoder, ForwardDecoder, SlotDecoder
from kdbench.trainers.sampler.llama import LlamaDecoder, is_plain_llama
from kdbench.trainers.sampler.trial import tried

_KINDS = {"full_attention", "sliding_attention"}
_NOT_SIZES = ("sliding_window", "max_window_layers", "sliding_window_pattern")


class Reach(NamedTuple):
    """How far back a model's attention sees, as its configuration says.

    Attributes:
        window: tokens that windowed layers see; None: all of a sequence as long as is asked for.
        plain: whether full attention and that one window are all there is.
    """

    window: int | None
    plain: bool


def reach(config: PretrainedConfig, longest: int) -> Reach:
    """Of sequences of ``longest`` tokens."""
    named = config.get_text_config().to_dict()
    kinds = set(named.get("layer_types") or ())
    window = named.get("sliding_window")
    windowed = "sliding_attention" in kinds or (window and not kinds)
    others = [
        value
        for name, value in named.items()
        if any(part in name for part in LOCAL) and name.lstrip("_") not in _NOT_SIZES
    ]
    local = any(type(value) is int and 0 < value < longest for value in others)
    local = local or ("sliding_attention" in kinds and not window)
    narrow = int(window) if windowed and window and window < longest else None
    return Reach(narrow, kinds <= _KINDS and not local)


_ways: "WeakKeyDictionary[PreTrainedModel, dict[Reach, str]]" = WeakKeyDictionary()
"""How a model is decoded; tried once a model and reach."""


def decoder_for(
    model: PreTrainedModel, *, dtype: torch.dtype | None, vocab: int, pad_id: int, longest: int
) -> Decoder:
    """The cheapest decoder that computes this model; the first call for a model tries it.

    Args:
        model: a causal language model; its weights are read now and must not change while the
            decoder is in use.
        dtype: to compute in; None is the model's own.
        vocab: number of real tokens.
        pad_id: any valid token id.
        longest: the longest sequence, prompt included, that will be asked for.

    Raises:
        InputError: the model cannot be sampled from: its plain forward pass fails or sees what
            comes later, or its vocabulary is smaller than the tokenizer's.
    """
    config = model.config.get_text_config()
    if config.vocab_size < vocab:
        raise InputError(
            f"model {config.model_type} has {config.vocab_size} output tokens but the tokenizer "
            f"{vocab}; use the tokenizer that belongs to the model"
        )
    far = reach(model.config, longest)
    dtype = dtype or model.dtype
    if is_plain_llama(model) and far == Reach(None, True):

        def make(dtype: torch.dtype) -> Decoder:
            return LlamaDecoder(model, dtype, pad_id, vocab, longest)

        return _recording(make, model, dtype, far, vocab)
    known = _ways.setdefault(model, {})
    if far not in known:
        known[far] = _way(model, far, vocab, pad_id)
    return _recording(_makers(model, pad_id, far)[known[far]], model, dtype, far, vocab)


_records: "WeakKeyDictionary[PreTrainedModel, dict[Reach, bool]]" = WeakKeyDictionary()
"""Whether a model's steps can be recorded as CUDA graphs; tried once a model and reach."""


def _recording(
    make: Callable[[torch.dtype], Decoder],
    model: PreTrainedModel,
    dtype: torch.dtype,
    far: Reach,
    vocab: int,
) -> Decoder:
    """A decoder; on a GPU its steps are recorded, if recorded ones agree with the plain forward pass."""
    decoder = make(dtype)
    if decoder.device.type != "cuda" or not isinstance(decoder, SlotDecoder):
        return decoder
    known = _records.setdefault(model, {})
    if far not in known:
        known[far] = recordable(make(model.dtype), model, vocab=vocab, window=far.window)
    decoder.graphs = Graphs() if known[far] else None
    return decoder


def recordable(decoder: Decoder, model: PreTrainedModel, *, vocab: int, window: int | None) -> bool:
    """Whether recorded steps of a decoder compute what its model does; says so in one line if not."""
    decoder.graphs = Graphs(first=without_waiting)
    try:
        found = tried(decoder, model, vocab=vocab, window=window)
    except Exception as error:  # what may not be recorded: a look at the device from the host, …
        if is_out_of_memory(error):
            raise
        why = " ".join(str(error).split())[:120]
        to_stderr(f"note: {type(model).__name__} is decoded without CUDA graphs ({why})")
        return False
    return found.holds(model.dtype)


def _makers(
    model: PreTrainedModel, pad_id: int, far: Reach
) -> dict[str, Callable[[torch.dtype], Decoder]]:
    """Ways to decode a model, the cheapest first."""
    ways: dict[str, Callable[[torch.dtype], Decoder]] = {}
    if far.plain:
        ways["together"] = lambda dtype: ForwardDecoder(model, dtype, pad_id, far.window)
    ways["alone"] = lambda dtype: AloneDecoder(model, dtype, remembers=True)
    ways["anew"] = lambda dtype: AloneDecoder(model, dtype, remembers=False)
    return ways


def _way(model: PreTrainedModel, far: Reach, vocab: int, pad_id: int) -> str:
    """The first way whose trial agrees with the plain forward pass."""
    last: Exception | None = None
    for way, make in _makers(model, pad_id, far).items():
        try:
            found = tried(make(model.dtype), model, vocab=vocab, window=far.window)
        except Exception as error:  # code of transformers that a decoder does not suit
            if is_out_of_memory(error):
                raise
            last = error
            continue
        if found.holds(model.dtype):
            return way
    why = f" ({type(last).__name__}: {' '.join(str(last).split())[:120]})" if last else ""
    raise InputError(
        f"model {model.config.model_type} cannot be sampled from: token by token it does not compute "
        f"what it computes at once{why}; choose a causal language model"
    ) from last


def way_of(decoder: Decoder) -> str:
    """How a decoder writes, in words."""
    if not isinstance(decoder, AloneDecoder):
        return "answers side by side"
    if decoder.remembers:
        return "answers one at a time: rows of other lengths cannot share its memory"
    return (
        "answers one at a time, each token from the whole text: it keeps no memory that can be used"
    )
