"""The one decoding loop, for on-policy training, teacher responses, probes and evaluation.

Tokens are drawn by Gumbel-max with counter-based noise (``draw``), so an answer is a function of
model, prompt, decoding and its noise key, and not of batch size, batch order, resume or world size,
up to rounding: logits of a row still differ in their last bits with the shape of the batch, which
flips a token about never in float64, hardly ever in float32 and sometimes in bfloat16.

Prompts are taken in chunks of fixed size. Inside a chunk a finished row is replaced by the next
prompt; when none is left the batch shrinks. Prompts of rows to come are read several at a time into
spare slots: one forward pass over a short prompt costs nearly as much as over eight. A chunk is
returned whole: it is the unit of resume.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from kdbench.harness.errors import InputError
from kdbench.trainers.sampler.choice import decoder_for
from kdbench.trainers.sampler.decoders import Decoder
from kdbench.trainers.sampler.draw import (
    GumbelArgmax,
    NgramBlock,
    filtered,
    mixed,
    position_keys,
    stream_key,
)
from kdbench.trainers.types import Answer, Decoding, Prompt

# Prompts read in one go for rows to come; each holds a slot of the cache until it gets its turn.
_READ_AHEAD = 8
_ENDLESS = 1 << 30
# Steps that a GPU runs before the host looks at their tokens.
_AHEAD = 8
# What configurations call their number of positions.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    eos_ids: frozenset[int],
    pad_id: int,
    vocab: int,
    batch_size: int = 32,
    chunk: int = 64,
    mix: tuple[PreTrainedModel, float] | None = None,
    dtype: torch.dtype | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[list[Answer]]:
    """Answers prompts, a chunk at a time.

    Args:
        model: causal language model. Dropout is off while it decodes and its train/eval mode is
            left as it was. Its weights must not change between two chunks of one call.
        prompts: what to answer; each needs at least one token.
        decoding: how to sample.
        eos_ids: tokens that end an answer (and belong to it).
        pad_id: any valid token id; nothing depends on it.
        vocab: number of real tokens; logits beyond are padding and never sampled.
        batch_size: rows decoded at once; costs memory, does not change answers but by rounding.
        chunk: prompts a chunk.
        mix: (teacher, alpha): each token from (1 - alpha) * model + alpha * teacher, each after
            ``decoding``'s filters (MiniLLM's teacher-mixed sampling).
        dtype: what to compute in; None is each model's own. Weights are cast once.
        on_progress: called for each finished answer with its number of tokens.

    Yields:
        One list of answers a chunk, in the order of its prompts. An answer that reached a limit
        (``max_new_tokens``, the model's positions) has ``finished`` False; a prompt that leaves no
        room for a token gets an empty one.

    Raises:
        InputError: an empty prompt, a token outside the vocabulary, or a model that cannot be
            sampled from.
    """
    check_asked(prompts, decoding, vocab, batch_size, chunk)
    teacher, alpha = mix or (model, 0.0)
    models = [model, teacher] if alpha else [model]
    limit = min(context_length(each.config) or _ENDLESS for each in models)
    longest = max((len(prompt.ids) for prompt in prompts), default=1)
    longest = max(1, min(limit, longest + decoding.max_new_tokens))
    with torch.no_grad():
        decoders = [
            decoder_for(each, dtype=dtype, vocab=vocab, pad_id=pad_id, longest=longest)
            for each in models
        ]
    on_progress = on_progress or (lambda tokens: None)
    sampler = _Sampler(decoders, alpha, decoding, eos_ids, vocab, limit, on_progress)
    for start in range(0, len(prompts), chunk):
        yield sampler.answer(prompts[start : start + chunk], batch_size)


def check_asked(
    prompts: Sequence[Prompt], decoding: Decoding, vocab: int, batch_size: int, chunk: int
) -> None:
    """Raises InputError for what no sampler can answer; see `generate`."""
    if batch_size < 1 or chunk < 1 or decoding.max_new_tokens < 1:
        raise InputError(
            f"batch size {batch_size}, chunk {chunk} and max_new_tokens {decoding.max_new_tokens} "
            "must all be at least 1"
        )
    if decoding.temperature < 0 or not 0 < decoding.top_p <= 1:
        raise InputError(
            f"temperature {decoding.temperature} must not be negative and top_p {decoding.top_p} "
            "must lie in (0, 1]"
        )
    for index, prompt in enumerate(prompts):
        if not prompt.ids:
            raise InputError(f"prompt {index} has no tokens; give it at least a start token")
        if max(prompt.ids) >= vocab or min(prompt.ids) < 0:
            raise InputError(
                f"prompt {index} has token {max(prompt.ids)} outside the vocabulary of {vocab}; "
                "use the model's own tokenizer"
            )


def context_length(config: PretrainedConfig) -> int | None:
    """How many tokens a model can read, prompt and answer together; None if its config names none."""
    named = config.get_text_config().to_dict()
    sizes = (named.get(name) for name in _POSITIONS)
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def ahead_on(device: torch.device) -> int:
    """Steps that run before the host looks at their tokens: a CPU has nothing to wait for."""
    return 1 if device.type == "cpu" else _AHEAD


class _Row:
    """One answer being written."""

    def __init__(self, index: int, prompt: Prompt, limit: int, no_repeat_ngram: int) -> None:
        self.index = index
        self.prompt = prompt
        self.limit = limit
        self.ids: list[int] = []
        self.block = NgramBlock(no_repeat_ngram, prompt.ids) if no_repeat_ngram else None

    def take(self, token: int) -> None:
        self.ids.append(token)
        if self.block:
            self.block.append(token)


@dataclass
class _Sampler:
    """Answers chunks with one or two decoders, ``alpha`` being the share of the second."""

    decoders: list[Decoder]
    alpha: float
    decoding: Decoding
    eos_ids: frozenset[int]
    vocab: int
    limit: int
    on_progress: Callable[[int], None]

    def __post_init__(self) -> None:
        self._device = self.decoders[0].device
        double = any(decoder.dtype == torch.float64 for decoder in self.decoders)
        self._dtype = torch.float64 if double else torch.float32
        self._draw = GumbelArgmax(self.vocab, self._device)
        self._ahead = ahead_on(self._device)
        self._rows: list[_Row] = []  # being written, in slots 0 …
        self._ready: deque[tuple[int, _Row]] = deque()  # read into a spare slot

    @torch.no_grad()
    def answer(self, prompts: Sequence[Prompt], batch_size: int) -> list[Answer]:
        """All answers of a chunk, in order."""
        answers = [Answer((), False)] * len(prompts)
        waiting = self._plan(prompts)
        slots = min(batch_size, len(waiting))
        if not slots:
            return answers
        capacity = max(len(row.prompt.ids) + row.limit for row in waiting)
        spare = min(_READ_AHEAD, len(waiting) - slots)
        for decoder in self.decoders:
            decoder.reset(slots + spare, capacity)
        self._allocate(slots)
        self._ready.clear()
        with ExitStack() as sessions:
            for decoder in self.decoders:
                sessions.enter_context(decoder.session())
            self._rows = [waiting.popleft() for _ in range(slots)]
            self._read(range(slots), self._rows)
            for slot, row in enumerate(self._rows):
                self._start(slot, row)
            while self._rows:
                ended = self._collect(self._several(), answers)
                if ended:
                    self._replace(ended, waiting, range(slots, slots + spare))
        return answers

    def _several(self) -> list[list[int]]:
        """The tokens drawn in the next steps, a list of all live rows' each.

        On a GPU several steps run before the host looks, since looking waits for all of them. What
        a row that ended writes in the rest of them is thrown away; no row comes to its limit before.
        """
        steps = 1
        if self._ahead > 1 and not any(row.block for row in self._rows):
            steps = min(self._ahead, *(row.limit - len(row.ids) for row in self._rows))
        drawn = [self._next() for _ in range(steps)]
        return torch.stack(drawn)[:, : len(self._rows)].tolist()

    def _collect(self, drawn_kn: list[list[int]], answers: list[Answer]) -> list[int]:
        """Gives each live row its tokens; stores the answers that end and returns their slots."""
        ended: set[int] = set()
        for drawn_n in drawn_kn:
            for slot, (row, token) in enumerate(zip(self._rows, drawn_n, strict=True)):
                if slot in ended:
                    continue
                row.take(token)
                if token in self.eos_ids or len(row.ids) == row.limit:
                    answers[row.index] = Answer(tuple(row.ids), token in self.eos_ids)
                    self.on_progress(len(row.ids))
                    ended.add(slot)
        return sorted(ended)

    def _plan(self, prompts: Sequence[Prompt]) -> deque[_Row]:
        """The chunk's rows, longest prompt first: rows of similar length share a narrow cache."""
        rows = []
        for index, prompt in enumerate(prompts):
            limit = min(self.decoding.max_new_tokens, self.limit - len(prompt.ids))
            if limit > 0:
                rows.append(_Row(index, prompt, limit, self.decoding.no_repeat_ngram))
        return deque(sorted(rows, key=lambda row: -len(row.prompt.ids)))

    def _allocate(self, slots: int) -> None:
        positions = self.decoding.max_new_tokens
        self._tokens_S = torch.zeros(slots, dtype=torch.int64, device=self._device)
        self._keys_SP2 = torch.zeros(slots, positions, 2, dtype=torch.int32, device=self._device)
        self._place_S = torch.zeros(slots, dtype=torch.int64, device=self._device)

    def _read(self, slots: Sequence[int], rows: Sequence[_Row]) -> None:
        """Reads prompts into slots, but for their last tokens, which the first steps take."""
        for decoder in self.decoders:
            decoder.fill(slots, [row.prompt.ids[:-1] for row in rows])

    def _start(self, slot: int, row: _Row) -> None:
        """Noise keys and first token of a row whose prompt is in its slot."""
        stream = stream_key(self.decoding.seed, row.prompt.key, row.prompt.sample)
        positions = self._keys_SP2.shape[1]
        self._keys_SP2[slot] = position_keys([stream], positions, self._device)[0]
        self._place_S[slot] = slot * positions
        self._tokens_S[slot] = row.prompt.ids[-1]

    def _next(self) -> torch.Tensor:
        """One step of all live rows, and of those that fill them up: the tokens drawn, (n,)."""
        n = self._stepping()
        blocks = [row.block for row in self._rows if row.block]
        logits = (decoder.step(self._tokens_S[:n])[:, : self.vocab] for decoder in self.decoders)
        scores = [filtered(each.to(self._dtype), self.decoding, blocks) for each in logits]
        scores_nV = mixed(scores[0], scores[1], self.alpha) if len(scores) == 2 else scores[0]
        if self.decoding.temperature == 0:
            drawn_n = scores_nV.argmax(dim=-1)
        else:
            keys_n2 = self._keys_SP2.view(-1, 2).index_select(0, self._place_S[:n])
            drawn_n = self._draw(scores_nV, keys_n2)
        self._place_S[:n] += 1
        self._tokens_S[:n] = drawn_n
        return drawn_n

    def _stepping(self) -> int:
        """Rows of a step: the live ones; a power of two or all, where each number is recorded apart."""
        live = len(self._rows)
        if all(decoder.graphs is None for decoder in self.decoders):
            return live
        return min(1 << (live - 1).bit_length(), len(self._tokens_S))

    def _replace(self, ended: list[int], waiting: deque[_Row], spare: Sequence[int]) -> None:
        """Refills slots of ended rows; those that nobody waits for are closed up from the end."""
        for slot in reversed(ended):
            if not self._ready and waiting:
                rows = [waiting.popleft() for _ in spare[: len(waiting)]]
                self._read(spare[: len(rows)], rows)
                self._ready.extend(zip(spare, rows, strict=False))
            if self._ready:
                source, self._rows[slot] = self._ready.popleft()
                self._move(source, slot)
                self._start(slot, self._rows[slot])
                continue
            last = len(self._rows) - 1
            if slot != last:
                self._move(last, slot)
                self._tokens_S[slot] = self._tokens_S[last]
                self._keys_SP2[slot] = self._keys_SP2[last]
                shift = (last - slot) * self._keys_SP2.shape[1]
                self._place_S[slot] = self._place_S[last] - shift
                self._rows[slot] = self._rows[last]
            self._rows.pop()
            self._retire(last)

    def _retire(self, slot: int) -> None:
        """Empties a slot that nobody waits for, so that it can fill up recorded steps for ever."""
        for decoder in self.decoders:
            if decoder.graphs is not None:
                decoder.fill([slot], [()])
        self._place_S[slot] = slot * self._keys_SP2.shape[1]

    def _move(self, source: int, target: int) -> None:
        for decoder in self.decoders:
            decoder.move(source, target)
