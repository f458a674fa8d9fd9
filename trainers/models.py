"""Loading, pruning and initialising the two models of a pair, and checking that they fit together."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from kdbench.harness.errors import InputError
from kdbench.harness.foreign import foreign
from kdbench.trainers.load_report import (
    load_report,
    refuse_other_kinds,
    refuse_unclean,
    refuse_unknown,
)
from kdbench.trainers.model_folder import (
    check_config_file,
    check_gguf,
    inspect_config,
    inspect_folder,
    inspect_tokenizer,
)
from kdbench.trainers.parallel.tensors import stored_tensors
from kdbench.trainers.pruning import depth, with_layers

PRUNE = re.compile(r"^prune:(\d+)$")
PROBES = (
    "The quick brown fox, 42 times:\n\tjumped!",
    "Ünïcödé 你好 — e-mail@example.org",
    "a  b   c",
)
LOADABLE = "give a hub id that is reachable, a Hugging Face folder with safetensors weights, or a .gguf file"
META = {"": "meta"}
"""Where tensors have shapes and no values."""
MAPPED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


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

    def said(self, ids: Sequence[int]) -> list[int]:
        """An answer's tokens without the one that ended it, which a tokenizer may hold for a word."""
        return list(ids[:-1] if ids and ids[-1] in self.eos_ids else ids)


def load_tokenizer(ref: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id, a folder or a GGUF file."""
    advice = LOADABLE
    if Path(ref).is_dir():
        own_code = "auto_map" in inspect_tokenizer(ref)
        advice = "copy the tokenizer's files again from its model"
        advice = "kdbench runs no code from model folders" if own_code else advice
    with foreign(f"cannot load a tokenizer from {ref!r}", advice):
        return AutoTokenizer.from_pretrained(**_place(ref))


def load_model(ref: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal language model of a hub id, a folder (safetensors only) or a GGUF file, in eval mode.

    Parameters own their memory: weights mapped from a file may be unaligned, which changes the last
    bits of matrix products and would break bitwise resume.

    Raises:
        InputError: nothing loadable is there.
    """
    gguf = ref.endswith(".gguf")
    model = _loaded(ref, torch.float32 if gguf else dtype)
    model = _plain_copy(model) if gguf else model
    own_memory(model)
    return rounded(model, dtype).eval()


def verify_model(ref: str) -> PreTrainedModel:
    """A model as its files are, mapped into memory: to see that it is whole, not to train with.

    Raises:
        InputError: nothing loadable is there, or its weights are not its architecture's, or not finite.
    """
    dtype = torch.float32
    if Path(ref).is_dir():
        # what is mapped as it is takes no memory
        types = {tensor.dtype for tensor in inspect_folder(ref).tensors.values()}
        dtype = MAPPED[types.pop()] if len(types) == 1 and types <= MAPPED.keys() else dtype
    with quiet():
        return _loaded(ref, dtype)


def shell_of(ref: str, *, dtype: torch.dtype) -> PreTrainedModel:
    """A model's configuration, shapes and end tokens without values; no weights are read."""
    if ref.endswith(".gguf"):
        return moved(load_model(ref, dtype=dtype), device="meta")
    with quiet(), foreign(f"cannot load a model from {ref!r}", LOADABLE):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            **_place(ref), use_safetensors=True, device_map=META, dtype=dtype
        )
    return model.eval()


def without_values(ref: str, *, dtype: torch.dtype) -> PreTrainedModel | None:
    """What `load_model` gives of a folder, buffers with their values, but weights with shapes only.

    Names and shapes were judged as there. None: the architecture makes its weights of others than those
    stored (fused experts), so that one has to be loaded whole.

    Raises:
        InputError: nothing loadable is there.
    """
    with quiet():
        shell = _loaded(ref, dtype, shapes_only=True)
    if vars(shell).get("_weight_conversions", True):  # what transformers did to stored tensors
        return None
    with foreign(f"cannot load a model from {ref!r}", LOADABLE):
        # rotary tables and masks are computed when a model is built, in float32; on `meta` nothing is
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(shell.config, dtype=torch.float32)
        for each in (shell, model):  # both copies of a tied weight may be stored
            each.tie_weights()
    model.generation_config = shell.generation_config
    names = [[name for name, _ in each.named_parameters()] for each in (shell, model)]
    return rounded(model, dtype).eval() if names[0] == names[1] else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and reports: what only looks has nothing to show."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _loaded(ref: str, dtype: torch.dtype, *, shapes_only: bool = False) -> PreTrainedModel:
    """A model whose weights are all its checkpoint's, and finite; or what names and shapes tell of it."""
    config = config_from(ref)
    kinds: dict[str, Any] = {} if ref.endswith(".gguf") else {"use_safetensors": True}
    stored = inspect_folder(ref).tensors if Path(ref).is_dir() else {}
    # names and shapes first, without values: what is missing would be made, of whatever size
    places: list[dict[str, Any]] = [{}] if ref.endswith(".gguf") else [{"device_map": META}, {}]
    for place in places[:1] if shapes_only else places:
        with foreign(f"cannot load a model from {ref!r}", LOADABLE):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **_place(ref),
                **kinds,
                **place,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the info, which names them
            )
            model, info = loaded
            report = load_report(model, info, stored)
        refuse_unclean(report, config, ref)
    return model


def moved(model: PreTrainedModel, **to: Any) -> PreTrainedModel:
    """``model.to(...)``, whose own annotation hides what it takes."""
    torch.nn.Module.to(model, **to)
    return model


def rounded(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with what it stores in another precision.

    Not what it computes when it is built: rotary frequencies of bfloat16 are wrong by up to 0.4%, so that
    after some hundred tokens they turn positions into others.
    """
    for tensor in stored_tensors(model).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
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
    advice = "download or copy it again" if path.suffix == ".gguf" else LOADABLE
    if path.is_dir() or path.suffix == ".json":
        refuse_unknown(inspect_config(path) if path.is_dir() else check_config_file(path), ref)
        advice = "mend it, or use the config.json that belongs to the model"
    with foreign(f"cannot load a model configuration from {ref!r}", advice):
        config = AutoConfig.from_pretrained(**_place(ref))
    refuse_other_kinds(config, ref)
    return config


def _place(ref: str) -> dict[str, Any]:
    """Where transformers finds what a reference names; code that lies there is never run."""
    path, safe = Path(ref), {"trust_remote_code": False}
    if not ref.endswith(".gguf"):
        return {"pretrained_model_name_or_path": ref, **safe}
    check_gguf(path)
    return {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name, **safe}


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
    """A new model made of ``keep`` of the teacher's layers; see `kdbench.trainers.pruning`.

    Raises:
        InputError: too many, or an architecture that computes something else without the others.
    """
    return with_layers(teacher, kept_layers(depth(teacher.config), keep))


def vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    *models: PreTrainedModel,
    end: int | None = None,
    size: int | None = None,
) -> Vocabulary:
    """The shared vocabulary; logits beyond it are padding.

    Args:
        tokenizer: whose ids they are.
        models: all that predict them; what their generation configurations say ends an answer does.
        end: what ends a turn in the prompts' format, if that is not the tokenizer's end token.
        size: ids that two tokenizers share, if one of them has more; see `compare`.

    Raises:
        InputError: a model has fewer output columns than the vocabulary has tokens.
    """
    widths = [model.get_output_embeddings().weight.shape[0] for model in models]
    size = usable(tokenizer, min(widths, default=0), size)
    for model, width in zip(models, widths, strict=True):
        if width < size:
            raise InputError(
                f"{model.name_or_path or type(model).__name__!r} predicts {width} tokens but the "
                f"tokenizer has {size}; use the tokenizer that belongs to the model."
            )
    eos = [end, tokenizer.eos_token_id]
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
    return Vocabulary(size, eos_ids, pad if pad is not None and pad < size else eos_ids[0])


def usable(tokenizer: PreTrainedTokenizerBase, width: int, size: int | None = None) -> int:
    """How many ids of a tokenizer, or of the ``size`` it shares, count beside a model of so many.

    Tokens that were only added to a tokenizer and have no place in the model (Gemma 3's
    ``<image_soft_token>`` in its text models, a pad token without a resize) do not: data that hold
    one are refused where they are read.
    """
    size = size or max(tokenizer.get_vocab().values()) + 1
    added = tokenizer.added_tokens_decoder
    spare = 0 < width < size and all(number in added for number in range(width, size))
    return width if spare else size


class Comparison(NamedTuple):
    """Two tokenizers side by side.

    Attributes:
        shared: ids below it stand for the same tokens in both; 0 for two that cannot be compared.
        said: how they differ, a phrase; empty for not at all.
    """

    shared: int
    said: str


def compare(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> Comparison:
    """Two tokenizers id by id, and on a few probes.

    The end token is none of it: the format of the prompts says what ends an answer. Nor are ids that
    one of them has beyond all of the other's: they are masked in both models.
    """
    mine, theirs = ({i: t for t, i in each.get_vocab().items()} for each in (one, other))
    sizes = [max(ids) + 1 for ids in (mine, theirs)]
    shared = min(sizes)
    changed = [i for i in range(shared) if mine.get(i) != theirs.get(i)]
    if changed:
        added = one.added_tokens_decoder.keys() | other.added_tokens_decoder.keys()
        kind = "added tokens" if added.issuperset(changed) else "tokens"
        named = [f"{i} is {mine.get(i)!r} and {theirs.get(i)!r}" for i in changed]
        return Comparison(0, f"{len(changed)} {kind} differ: {_listed(named)}")
    for probe in PROBES:
        if one.encode(probe, add_special_tokens=False) != other.encode(
            probe, add_special_tokens=False
        ):
            return Comparison(0, f"one vocabulary, but {probe!r} is split differently")
    longer, place = (mine, 0) if sizes[0] > sizes[1] else (theirs, 1)
    extra = [repr(longer[i]) for i in sorted(longer) if i >= shared]
    said = []
    if extra:
        whose = ("the first", "the second")[place]
        said.append(f"{len(extra)} tokens that only {whose} has: {_listed(extra)}")
    if one.eos_token_id != other.eos_token_id:
        said.append(f"another end token, {one.eos_token!r} and {other.eos_token!r}")
    return Comparison(shared, " and ".join(said))


def _listed(items: list[str], most: int = 4) -> str:
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")
