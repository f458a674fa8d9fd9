"""Keys and values of the answers being written, one slot an answer, each slot with its own length.

Slots are left-aligned: the token at position p of a sequence lies in column p of its slot,
whatever its neighbours do. A new prompt is written into a free slot without touching the others, no
column is ever padding on the left, position ids are column numbers, and the attention of a step
reads only as many columns as the longest live answer has. Storage is written in place, never grown.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


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
        positions_n = self._lengths_S[:n].clone()
        index_n = positions_n + self._base_S[:n]
        self._mask_SC.view(-1).index_fill_(0, index_n, 0.0)
        self._lengths_S[:n] += 1
        self._lengths[:n] = [length + 1 for length in self._lengths[:n]]
        width = max(self._lengths[:n])
        return Step(positions_n, index_n, self._mask_SC[:n, None, None, :width], width)


class KeyValues:
    """One layer's storage: keys and values of shape (slots, capacity, heads, head size)."""

    def __init__(self, slots: Slots, like_HD: torch.Size, tensor: torch.Tensor) -> None:
        # Zeros, not empty: a masked column still enters the sum as 0 * value, and 0 * nan is nan.
        shape = (slots.count, slots.capacity, *like_HD)
        self.keys = tensor.new_zeros(shape)
        self.values = tensor.new_zeros(shape)
        self._flat_keys = self.keys.view(slots.count * slots.capacity, -1)
        self._flat_values = self.values.view(slots.count * slots.capacity, -1)

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
        """Views of keys and values, each (n, heads, width, head size)."""
        n = len(step.index_n)
        return (
            self.keys[:n, : step.width].transpose(1, 2),
            self.values[:n, : step.width].transpose(1, 2),
        )

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first columns of a slot over another's."""
        self.keys[target, :length] = self.keys[source, :length]
        self.values[target, :length] = self.values[source, :length]


class _SlotLayer(CacheLayerMixin):
    """One layer of ``SlotCache``: a ``KeyValues`` behind the interface transformers calls."""

    is_sliding = False

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()
        self._cache = cache
        self.store: KeyValues | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores (batch, heads, tokens, head size) and returns what to attend to."""
        batch, heads, _, size = key_states.shape
        if self.store is None:
            self.store = KeyValues(self._cache.slots, torch.Size((heads, size)), key_states)
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
        self._slot_layers = [_SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

    def move(self, source: int, target: int, length: int) -> None:
        """Copies a slot over another in every layer that has been used."""
        for layer in self._slot_layers:
            if layer.store is not None:
                layer.store.move(source, target, length)


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
