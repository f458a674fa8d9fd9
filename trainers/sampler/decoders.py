"""A language model as the sampler sees it: prompts go into slots, steps give next-token logits.

Slots hold keys and values of the answers being written, one slot an answer, each with its own
length. They are left-aligned: the token at position p of a sequence lies in column p of its slot,
whatever its neighbours do. A new prompt is written into a free slot without touching the others, no
column is ever padding on the left, position ids are column numbers, and the attention of a step
reads only as many columns as the longest live answer has. Storage is written in place, never grown.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple
from weakref import proxy

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from kdbench.trainers.cuda.graphs import COLUMNS, Graphs
from kdbench.trainers.sampler.as_asked import cast_copy, evaluating

# Padding worth accepting to save a forward pass: a guess, between what small and large models want.
_GROUP_PADDING = 64
_GROUP_TOKENS = 2048

Mask = torch.Tensor | dict[str, torch.Tensor] | None
"""Additive mask of a step, (rows, 1, 1, columns); one a kind of layer where they differ."""


class Step(NamedTuple):
    """Where one decoding step reads and writes, for the first ``n`` slots.

    ``positions_n`` are the columns of the new tokens, ``index_n`` the same in the flattened
    (slots * capacity) storage; the first ``width`` columns are read through ``mask_n11W``, which is
    0 where a slot has a token and -inf elsewhere.
    """

    positions_n: torch.Tensor
    index_n: torch.Tensor
    mask_n11W: torch.Tensor
    width: int


class Slots:
    """Lengths and attention mask of the slots; knows nothing of keys and values.

    Args:
        count: number of slots.
        capacity: columns a slot.
        device: of the model.
        dtype: of the model: attention kernels want the mask in it.
    """

    def __init__(self, count: int, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        self.count = count
        self.capacity = capacity
        self._lengths = [0] * count
        self._lengths_S = torch.zeros(count, dtype=torch.int64, device=device)
        self._base_S = torch.arange(count, device=device) * capacity
        self._mask_SC = torch.full((count, capacity), -torch.inf, dtype=dtype, device=device)

    def occupy(self, slot: int, length: int) -> None:
        """Declares the first ``length`` columns of a slot filled and all others empty."""
        self._lengths[slot] = length
        self._lengths_S[slot] = length
        self._mask_SC[slot, :length] = 0
        self._mask_SC[slot, length:] = -torch.inf

    def move(self, source: int, target: int) -> int:
        """Makes ``target`` a copy of ``source``; returns the number of columns to copy."""
        length = self._lengths[source]
        self.occupy(target, length)
        return length

    def advance(self, n: int) -> Step:
        """Appends one column to each of the first ``n`` slots."""
        return self.appended(n, self.counted(n))

    def counted(self, n: int) -> int:
        """The host's part of ``advance``: columns of the longest of the first ``n`` slots then."""
        self._lengths[:n] = [length + 1 for length in self._lengths[:n]]
        return max(self._lengths[:n])

    def appended(self, n: int, width: int) -> Step:
        """The device's part of ``advance``: the same operations on the same memory for equal ``n``."""
        positions_n = self._lengths_S[:n].clone()
        index_n = positions_n + self._base_S[:n]
        self._mask_SC.view(-1).index_fill_(0, index_n, 0.0)
        self._lengths_S[:n] += 1
        return Step(positions_n, index_n, self._mask_SC[:n, None, None, :width], width)


class KeyValues:
    """One layer's storage, (slots, capacity, heads, size) each: keys and values may differ in size."""

    def __init__(
        self, slots: Slots, keys_HD: torch.Size, values_HD: torch.Size, tensor: torch.Tensor
    ) -> None:
        # Zeros, not empty: a masked column still enters the sum as 0 * value, and 0 * nan is nan.
        self.keys = tensor.new_zeros(slots.count, slots.capacity, *keys_HD)
        self.values = tensor.new_zeros(slots.count, slots.capacity, *values_HD)
        self._flat_keys, self._flat_values = (
            storage.flatten(0, 1).flatten(1) for storage in (self.keys, self.values)
        )

    def write_prompts(
        self, slots_r: torch.Tensor, keys_rTHD: torch.Tensor, values_rTHD: torch.Tensor
    ) -> None:
        """Fills the first T columns of some slots."""
        width = keys_rTHD.shape[1]
        self.keys[slots_r, :width] = keys_rTHD
        self.values[slots_r, :width] = values_rTHD

    def write_step(self, step: Step, keys_nX: torch.Tensor, values_nX: torch.Tensor) -> None:
        """Writes one token's keys and values, heads flattened, into each slot of a step."""
        self._flat_keys.index_copy_(0, step.index_n, keys_nX)
        self._flat_values.index_copy_(0, step.index_n, values_nX)

    def read(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of keys and values, each (n, heads, width, its size)."""
        read = slice(len(step.index_n)), slice(step.width)
        return self.keys[read].transpose(1, 2), self.values[read].transpose(1, 2)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first columns of a slot over another's."""
        self.keys[target, :length] = self.keys[source, :length]
        self.values[target, :length] = self.values[source, :length]


class Decoder(ABC):
    """Next-token logits for a set of slots. Slots 0 … n-1 are live, those behind them are free.

    Attributes:
        device: where the model is.
        dtype: what it computes in.
    """

    device: torch.device
    dtype: torch.dtype
    graphs: Graphs | None = None
    """Steps are recorded and replayed: they want few numbers of rows, and free slots that are empty."""

    @abstractmethod
    def reset(self, count: int, capacity: int) -> None:
        """Makes ``count`` empty slots of ``capacity`` columns; larger storage is kept."""

    @abstractmethod
    def fill(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Reads prompts into slots; an empty prompt makes an empty slot."""

    @abstractmethod
    def step(self, tokens_n: torch.Tensor) -> torch.Tensor:
        """Appends a token to each live slot; returns logits of what follows, (n, V)."""

    @abstractmethod
    def move(self, source: int, target: int) -> None:
        """Puts a slot in another's place; nobody asks for the source again before it is filled."""

    def session(self) -> AbstractContextManager[None]:
        """To be entered around a run of ``fill`` and ``step``."""
        return nullcontext()


class SlotDecoder(Decoder):
    """A decoder whose slots advance together, a column at a time, through one mask.

    Args:
        device: where the model is.
        dtype: what it computes in.
        pad_id: any valid token id; pads groups of prompts on the right, where nothing sees it.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, pad_id: int) -> None:
        self.device = device
        self.dtype = dtype
        self._pad_id = pad_id
        self.slots = Slots(0, 0, device, dtype)
        self._stores: list[KeyValues] = []
        self._tokens_S = torch.empty(0, dtype=torch.int64, device=device)

    def reset(self, count: int, capacity: int) -> None:
        """See ``Decoder``."""
        if self.slots.count < count or self.slots.capacity < capacity:
            size = max(count, self.slots.count), max(capacity, self.slots.capacity)
            self.slots = Slots(*size, self.device, self.dtype)
            self._tokens_S = self._tokens_S.new_zeros(size[0])
            self._allocate()
            if self.graphs is not None:
                self.graphs.clear()

    def fill(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """See ``Decoder``."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self.slots.occupy(slot, len(prompt))
        lengths = [len(prompt) for prompt in prompts]
        for group in prompt_groups(lengths, padding=_GROUP_PADDING, tokens=_GROUP_TOKENS):
            width = lengths[group[0]]
            if width == 0:
                continue
            rows = [[*prompts[i], *[self._pad_id] * (width - lengths[i])] for i in group]
            ids_rT = torch.tensor(rows, device=self.device)
            self._read(ids_rT, torch.tensor([slots[index] for index in group], device=self.device))

    def step(self, tokens_n: torch.Tensor) -> torch.Tensor:
        """See ``Decoder``."""
        n = len(tokens_n)
        if self.graphs is None:
            return self._advance(tokens_n, self.slots.advance(n))
        width = -(-self.slots.counted(n) // COLUMNS) * COLUMNS
        width = min(width, self.slots.capacity)
        self._tokens_S[:n] = tokens_n
        body = partial(self._recordable, n, width)
        return self.graphs((n, width), body).clone()  # the next step writes there

    def _recordable(self, n: int, width: int) -> torch.Tensor:
        """A step that depends on nothing but memory which stays where it is."""
        return self._advance(self._tokens_S[:n], self.slots.appended(n, width))

    def move(self, source: int, target: int) -> None:
        """See ``Decoder``."""
        length = self.slots.move(source, target)
        for store in self._stores:
            store.move(source, target, length)

    @abstractmethod
    def _allocate(self) -> None:
        """Makes ``self._stores``, a layer each, for ``self.slots``."""

    @abstractmethod
    def _read(self, ids_rT: torch.Tensor, slots_r: torch.Tensor) -> None:
        """Stores keys and values of right-padded prompts."""

    @abstractmethod
    def _advance(self, tokens_n: torch.Tensor, step: Step) -> torch.Tensor:
        """One step."""


def prompt_groups(lengths: Sequence[int], *, padding: int, tokens: int) -> list[list[int]]:
    """Which prompts to read in one forward pass: indices of similar length together.

    Args:
        lengths: of the prompts.
        padding: at most so many padding tokens a group; what one more pass would cost about.
        tokens: at most so many tokens a group, padding included (or one prompt).

    Returns:
        Groups of indices, each index once.
    """
    groups: list[list[int]] = []
    wasted = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        wasted += longest - lengths[index]
        if groups and wasted <= padding and longest * (len(groups[-1]) + 1) <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
            wasted = 0
    return groups


class _SlotLayer(CacheLayerMixin):
    """One layer of ``SlotCache``: a ``KeyValues`` behind the interface transformers calls."""

    is_sliding = False

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()
        # The cache holds its layers: were it held in turn, storages would wait for the collector of cycles.
        self._cache: SlotCache = proxy(cache)
        self.store: KeyValues | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores (batch, heads, tokens, head size) and returns what to attend to."""
        batch = len(key_states)
        if self.store is None:
            keys_HD, values_HD = (
                torch.Size((states.shape[1], states.shape[3]))
                for states in (key_states, value_states)
            )
            self.store = KeyValues(self._cache.slots, keys_HD, values_HD, key_states)
            self._cache.stores.append(self.store)
        if self._cache.step is None:
            # New prompts attend to themselves only; right padding is behind every real token.
            self.store.write_prompts(
                self._cache.filling_r, key_states.transpose(1, 2), value_states.transpose(1, 2)
            )
            return key_states, value_states
        self.store.write_step(
            self._cache.step, key_states.reshape(batch, -1), value_states.reshape(batch, -1)
        )
        return self.store.read(self._cache.step)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Storage is made by the first ``update``, which knows the shapes."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Asked for only when filling: steps bring their own mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """0: position ids are always given, so nothing needs to be counted from here."""
        return 0

    def get_max_length(self) -> int:
        """Columns a slot."""
        return self._cache.slots.capacity


class SlotCache(Cache):
    """The slots as a transformers ``Cache``; set ``step`` or ``filling_r`` before each forward."""

    def __init__(self, slots: Slots, layers: int) -> None:
        self.slots = slots
        self.step: Step | None = None
        self.filling_r = torch.empty(0, dtype=torch.int64)
        self.stores: list[KeyValues] = []  # of the layers that have been used
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])


class ForwardDecoder(SlotDecoder):
    """A causal model of transformers with full or windowed attention, by its own ``forward``.

    Args:
        model: whose layers keep keys and values of all tokens.
        dtype: to compute in.
        pad_id: any valid token id.
        window: how many tokens, its own included, a token sees in windowed layers; None: all.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, pad_id: int, window: int | None = None
    ) -> None:
        super().__init__(model.device, dtype, pad_id)
        self._window = window
        self._by_kind = bool(getattr(model.config.get_text_config(), "layer_types", None))
        self._model = model if dtype == model.dtype else cast_copy(model, dtype)
        self._cache = SlotCache(self.slots, 0)

    def session(self) -> AbstractContextManager[None]:
        """Evaluation mode and an attention that takes masks, for the caller's model too."""
        return evaluating(self._model)

    def _allocate(self) -> None:
        layers = self._model.config.get_text_config().num_hidden_layers
        self._cache = SlotCache(self.slots, layers)
        self._stores = self._cache.stores

    def _read(self, ids_rT: torch.Tensor, slots_r: torch.Tensor) -> None:
        self._cache.step, self._cache.filling_r = None, slots_r
        positions_rT = torch.arange(ids_rT.shape[1], device=self.device).expand_as(ids_rT)
        self._forward(ids_rT, positions_rT, None)

    def _advance(self, tokens_n: torch.Tensor, step: Step) -> torch.Tensor:
        self._cache.step = step
        logits_n1V = self._forward(tokens_n[:, None], step.positions_n[:, None], self._mask(step))
        return logits_n1V[:, -1]

    def _mask(self, step: Step) -> Mask:
        """What each row sees: windows count back from its own position, not from the widest row's."""
        if self._window is None:
            return step.mask_n11W
        columns_W = torch.arange(step.width, device=self.device)
        behind_nW = columns_W[None] <= step.positions_n[:, None] - self._window
        windowed = step.mask_n11W.masked_fill(behind_nW[:, None, None], -torch.inf)
        if not self._by_kind:
            return windowed
        return {"full_attention": step.mask_n11W, "sliding_attention": windowed}

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, mask: Mask) -> torch.Tensor:
        return self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
