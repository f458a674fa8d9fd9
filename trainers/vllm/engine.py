"""A model that answers in vLLM's process and scores in this one."""

import copy
import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from kdbench.harness.errors import CellFailed, InputError
from kdbench.harness.files.store import Say
from kdbench.harness.foreign import foreign
from kdbench.trainers.engine import LoadedModel, Writer
from kdbench.trainers.model_folder import SINGLE
from kdbench.trainers.sampler.draw import stream_key
from kdbench.trainers.sampler.sampler import check_asked
from kdbench.trainers.standin import Standin
from kdbench.trainers.types import Answer, Decoding, Prompt
from kdbench.trainers.vllm.agreement import ANSWERS, TOKENS, Replay, replayed
from kdbench.trainers.vllm.process import Process, between

SHARE = 0.4
"""Of a GPU's memory that vLLM may use beside the model in this process."""
_SHORTEST = 64
_ENDLESS = 1 << 30
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(eq=False)
class VllmEngine(Standin[LoadedModel]):
    """An `Engine` whose answers vLLM writes; see `kdbench.trainers.vllm`.

    Its process starts when it is first asked, with random weights; the model's own are handed over then and,
    of one that is being trained, before each call of ``answers``. Some answers after a process's first
    hand-over, and after the second, which must replace the first, are compared with a plain forward pass of
    ``behind``.

    Args:
        behind: the same model in this process: it scores, mixes and is compared with.
        changes: whether it is being trained.
        say: told what the comparisons found, in a line each; `checks` keeps them.
        writer: the model whose weights are handed over, where that is another (adapters merged).
    """

    _: KW_ONLY
    changes: bool
    say: Say
    writer: Writer = None
    checks: list[Replay] = field(default_factory=list)
    _process: Process | None = field(default=None, init=False)
    _length: int = field(default=0, init=False)
    _given: int = field(default=0, init=False)
    """Hand-overs to the process of now, and, below, those of them that were compared."""
    _compared: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_dtype(self.behind.dtype)

    def unmixed(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        chunk: int,
        on_progress: Callable[[int], None],
    ) -> Iterator[list[Answer]]:
        """See ``Standin``: by vLLM."""
        check_asked(prompts, decoding, self.vocabulary.size, self.batch_size, chunk)
        if not prompts:
            return
        process = self._ready(max(len(p.ids) for p in prompts) + decoding.max_new_tokens)
        if self._compared < min(2, self._given):
            self._compared += 1
            self._compare(process, prompts, decoding)
        for start in range(0, len(prompts), chunk):
            some = prompts[start : start + chunk]
            yield self._answered(process, some, decoding, on_progress)
        process.tell("rest")

    def _answered(
        self,
        process: Process,
        prompts: Seq[Prompt],
        decoding: Decoding,
        on_progress: Callable[[int], None] = lambda tokens: None,
    ) -> list[Answer]:
        """One chunk. An answer ends with an end token, or at the decoding's limit or the model's."""
        rooms = [(self.max_length or _ENDLESS) - len(p.ids) for p in prompts]
        asked = [i for i, room in enumerate(rooms) if room > 0]
        answers = [Answer((), False)] * len(prompts)
        ends = frozenset(self.vocabulary.eos_ids)
        found = process.ask(
            "answer",
            prompts=[prompts[i].ids for i in asked],
            streams=[stream_key(decoding.seed, prompts[i].key, prompts[i].sample) for i in asked],
            limits=[min(rooms[i], decoding.max_new_tokens) for i in asked],
            decoding=asdict(decoding),
            vocab=self.vocabulary.size,
            ends=sorted(ends),
        )
        for each in found:
            ids = tuple(each["ids"])
            answers[asked[each["place"]]] = Answer(ids, ids[-1] in ends)
            on_progress(len(ids))
        return answers

    def spent(self) -> tuple[float, int]:
        """Of the process so far: seconds of processors, and its peak memory in bytes; 0 before it starts."""
        if self._process is None:
            return 0.0, 0
        (found,) = self._process.ask("count")
        return found["cpu_s"], found["peak"]

    # -- the process and its weights -----------------------------------------------------------

    def _ready(self, longest: int) -> Process:
        """A process with today's weights that can write sequences as long as these."""
        process = self._process
        longest = min(longest, self.max_length or _ENDLESS)  # an answer ends there
        if process is None or longest > self._length:
            process = self._start(longest)
        elif not self.changes:
            return process
        with ExitStack() as taken:
            with self._weights() as model:
                place = taken.enter_context(between(written_bytes(model, self.dtype)))
                write_weights(model, self.dtype, place)
            self._return_memory()
            process.tell("take", folder=str(place))
        self._given += 1
        return process

    def _start(self, longest: int) -> Process:
        if self._process is not None:
            self._process.close()
        self._return_memory()
        wanted = 1 << math.ceil(math.log2(max(longest, _SHORTEST)))
        self._length = min(self.max_length or _ENDLESS, wanted)
        self._given = self._compared = 0
        model, device = self.behind.model, str(self.device)
        self._process = process = Process(device)
        config = copy.deepcopy(model.config)
        config.architectures = [
            type(model).__name__
        ]  # a model that was never saved does not say it
        config.save_pretrained(process.folder)
        process.tell(
            "load",
            folder=str(process.folder),
            dtype=DTYPES[self.dtype],
            length=self._length,
            rows=self.batch_size,
            device=device,
            share=SHARE,
            # its memory is wanted between two calls; what new weights replace (2) need not be kept (1)
            sleep=0 if device == "cpu" else 2 if self.changes else 1,
            # on a GPU the cache is a share of its memory
            cache=kv_bytes(model.config, self.dtype) * self._length * (self.batch_size + 1)
            if device == "cpu"
            else 0,
        )
        return process

    def _return_memory(self) -> None:
        """What training keeps of a GPU but does not use, the other process needs."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _weights(self) -> AbstractContextManager[PreTrainedModel]:
        return nullcontext(self.behind.model) if self.writer is None else self.writer()

    def _compare(self, process: Process, prompts: Seq[Prompt], decoding: Decoding) -> None:
        """Raises CellFailed if the answers are not those of these weights and our noise."""
        plainly = Decoding(max_new_tokens=min(TOKENS, decoding.max_new_tokens), seed=decoding.seed)
        prompts = prompts[:ANSWERS]
        answers = self._answered(process, prompts, plainly)
        with self._weights() as model:
            found = replayed(replace(self.behind, model=model), prompts, answers, plainly)
        self.checks.append(found)
        version = process.about["vllm"]
        if not found.holds(self.dtype):
            raise CellFailed(
                f"vLLM {version} does not draw what this model does ({found}; log-probabilities spread over "
                f"{found.spread:.2g}); leave out generate.engine=vllm, and please report the model"
            )
        self.say(f"vLLM {version} ({DTYPES[self.dtype]}): {found}")


def check_dtype(dtype: torch.dtype) -> None:
    """Raises InputError for an arithmetic that vLLM does not have."""
    if dtype not in DTYPES:
        raise InputError(
            f"generate.engine=vllm cannot sample in {str(dtype).removeprefix('torch.')}; set "
            "generate.dtype=fp32 and train.sample_precision=fp32, or leave the engine out"
        )


def write_weights(model: PreTrainedModel, dtype: torch.dtype, place: Path) -> None:
    """The weights as a folder of transformers holds them, in another precision.

    They leave a GPU one by one: all of them once more may not fit there. Tied ones are there under each of
    their names: what is left out of a hand-over keeps its old values.

    Raises:
        InputError: there is no room for them.
    """
    state = {
        name: (t.to(dtype) if t.is_floating_point() else t).cpu()
        for name, t in model.state_dict().items()
    }
    for name in model.all_tied_weights_keys:
        state[name] = state[name].clone()  # what shares memory would be stored once
    stored = revert_weight_conversion(model, state)
    # not by save_pretrained, which of several processes has only the first write
    tensors = {name: t.contiguous() for name, t in stored.items()}
    what = f"cannot hand the weights over to vLLM in {place}"
    with foreign(what, "free some space there, or name a folder with more by TMPDIR"):
        save_file(tensors, place / SINGLE, {"format": "pt"})


def written_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """How much `write_weights` writes."""
    state = model.state_dict().values()
    return sum(t.numel() * (dtype if t.is_floating_point() else t.dtype).itemsize for t in state)


def kv_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers.

    Raises:
        InputError: the architecture has no attention heads to go by.
    """
    text = config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", None) or 0)
    if not heads:
        raise InputError(
            f"generate.engine=vllm on a CPU needs the size of a key-value cache, and {config.model_type} has "
            "no attention heads; leave the engine out"
        )
    named = text.to_dict()
    width = int(named.get("head_dim") or text.hidden_size // heads)
    kept = int(named.get("num_key_value_heads") or heads)
    return 2 * int(text.num_hidden_layers) * kept * width * dtype.itemsize
