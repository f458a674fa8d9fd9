"""Drawing a token: what is taken away from a next-token distribution, and the noise that then picks.

Filters mean what they mean in transformers' generation, in its order (n-gram block, temperature,
top-k, top-p), so that a protocol written for one decodes the same with the other.

Noise is a pure function of where it is used, so that sampling needs no random state.
``argmax(log p + G)`` with independent standard Gumbel ``G`` draws from ``p`` (Gumbel-max). Here
``G`` of a token is a hash of (seed, prompt key, sample index, position, token id): a response then
depends on nothing else, neither on batch size nor on order, resume or world size.

Two stages. Per row and position, a 64-bit state is mixed on the host side of the loop (SplitMix64's
finaliser: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), once for
all positions of an answer. Per token, the two 32-bit halves of that state key a 32-bit mixer of
three multiply-xorshift rounds over a table of pre-mixed token ids: 32-bit lanes are what CPUs and
GPUs do fast, and with the vocabulary innermost it costs a few per cent of a model step.

The uniform behind ``G`` has 31 bits: a token whose probability is below about 1e-8 is drawn with a
rounded probability, one below 2**-32 times its rivals' cannot be drawn.
"""

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch

from kdbench.trainers.types import Decoding

# Elements a tile of the (row, token) plane: bounds the two buffers that are kept, to 1 MB each.
# For speed it hardly matters (1 thread, 32 x 49152: 21 ms in tiles, 27 ms in a piece).
_TILE = 1 << 18
# The same on a GPU without Triton, where every tile costs 26 kernels: 256 MiB a buffer.
_GPU_TILE = 1 << 26
_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_A = 0xBF58476D1CE4E5B9
_MIX_B = 0x94D049BB133111EB


# -- filters


def top_k(scores_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Keeps the k best scores of each row, and whatever ties with the k-th; the rest is -inf."""
    kth = scores_BV.topk(min(k, scores_BV.shape[-1]), dim=-1).values[:, -1:]
    return scores_BV.masked_fill(scores_BV < kth, -torch.inf)


def top_p(scores_BV: torch.Tensor, p: float) -> torch.Tensor:
    """Keeps the smallest set of best tokens whose probability reaches p, at least one token.

    A token is dropped when it and all that are less likely together weigh at most 1 - p (nucleus
    sampling: Holtzman et al. 2020, with transformers' treatment of the border).
    """
    ascending, order = scores_BV.sort(dim=-1)
    mass = ascending.softmax(dim=-1).cumsum(dim=-1)
    drop = mass <= 1 - p
    drop[:, -1] = False
    return scores_BV.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


class NgramBlock:
    """The tokens that would repeat an n-gram of one sequence, kept up to date token by token.

    Args:
        n: length of the n-grams of which no second copy may appear.
        tokens: the sequence so far; the prompt counts.
    """

    def __init__(self, n: int, tokens: Iterable[int]) -> None:
        self._n = n
        self._last: tuple[int, ...] = ()
        self._followers: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Extends the sequence."""
        if len(self._last) == self._n - 1:
            self._followers[self._last].add(token)
            self._last = (*self._last, token)[1:]
        else:
            self._last = (*self._last, token)

    def banned(self) -> Sequence[int]:
        """Tokens that may not come next."""
        return tuple(self._followers.get(self._last, ()))


def block_ngrams(scores_BV: torch.Tensor, blocks_B: Sequence[NgramBlock]) -> torch.Tensor:
    """Sets what each row may not repeat to -inf."""
    banned = [(row, token) for row, block in enumerate(blocks_B) for token in block.banned()]
    if not banned:
        return scores_BV
    rows, tokens = torch.tensor(banned, device=scores_BV.device).unbind(dim=1)
    return scores_BV.index_put((rows, tokens), scores_BV.new_tensor(-torch.inf))


def filtered(
    scores_BV: torch.Tensor, decoding: Decoding, blocks_B: Sequence[NgramBlock]
) -> torch.Tensor:
    """All of ``decoding``'s filters in transformers' order; greedy decoding has no temperature,
    top-k or top-p. ``blocks_B`` is empty when n-grams may repeat.
    """
    if blocks_B:
        scores_BV = block_ngrams(scores_BV, blocks_B)
    if decoding.temperature == 0:
        return scores_BV
    if decoding.temperature != 1:
        scores_BV = scores_BV / decoding.temperature
    if decoding.top_k > 0:
        scores_BV = top_k(scores_BV, decoding.top_k)
    if decoding.top_p < 1:
        scores_BV = top_p(scores_BV, decoding.top_p)
    return scores_BV


def mixed(first_BV: torch.Tensor, second_BV: torch.Tensor, alpha: float) -> torch.Tensor:
    """log((1 - alpha) softmax(first) + alpha softmax(second)), row by row.

    The distribution that MiniLLM collects its samples from (Gu et al. 2024, teacher-mixed
    sampling), each part after its own filters.
    """
    if alpha == 0:
        return first_BV
    if alpha == 1:
        return second_BV
    weights = torch.tensor([1 - alpha, alpha], dtype=torch.float64).log().tolist()
    return torch.logaddexp(
        first_BV.log_softmax(dim=-1) + weights[0], second_BV.log_softmax(dim=-1) + weights[1]
    )


# -- noise


def _signed(value: int, bits: int) -> int:
    """The two's-complement reading of an unsigned ``bits``-bit integer (torch has no unsigned)."""
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


def _mix64(value: int) -> int:
    value = ((value ^ (value >> 30)) * _MIX_A) & _MASK64
    value = ((value ^ (value >> 27)) * _MIX_B) & _MASK64
    return value ^ (value >> 31)


def _xorshift_(
    x: torch.Tensor, shift: int, bits: int, scratch: torch.Tensor | None = None
) -> torch.Tensor:
    """``x ^= x >>> shift`` in place; torch shifts signed integers with their sign, so mask it."""
    shifted = torch.bitwise_right_shift(x, shift, out=scratch)
    return x.bitwise_xor_(shifted.bitwise_and_((1 << (bits - shift)) - 1))


def stream_key(seed: int, key: int, sample: int) -> int:
    """One 64-bit state for an answer: a chain of mixers, so that no two fields can cancel."""
    state = _mix64((seed + _GOLDEN) & _MASK64)
    state = _mix64((state ^ key) + _GOLDEN & _MASK64)
    return _mix64((state ^ sample) + _GOLDEN & _MASK64)


def position_keys(streams: Sequence[int], positions: int, device: torch.device) -> torch.Tensor:
    """Keys of every position of each answer.

    Args:
        streams: one ``stream_key`` an answer.
        positions: number of generated tokens to make keys for.
        device: where the keys are wanted.

    Returns:
        int32 tensor of shape (len(streams), positions, 2).
    """
    start = torch.tensor([_signed(stream, 64) for stream in streams], dtype=torch.int64)
    steps = torch.arange(1, positions + 1, dtype=torch.int64) * _signed(_GOLDEN, 64)
    state = start[:, None] + steps  # wraps modulo 2**64, as SplitMix64's counter does
    state = _xorshift_(state, 30, 64).mul_(_signed(_MIX_A, 64))
    state = _xorshift_(state, 27, 64).mul_(_signed(_MIX_B, 64))
    state = _xorshift_(state, 31, 64)
    # Explicit halves rather than a view: the same on machines of either byte order.
    low = (state & 0xFFFFFFFF) - ((state & 0x80000000) << 1)
    return torch.stack([low, state >> 32], dim=-1).to(torch.int32).to(device)


def token_table(vocab: int, device: torch.device) -> torch.Tensor:
    """Token ids mixed beforehand (MurmurHash3's 32-bit finaliser); int32 of shape (vocab,)."""
    table = torch.arange(vocab, dtype=torch.int32)
    table = _xorshift_(table.add_(_signed(0x9E3779B9, 32)), 16, 32).mul_(_signed(0x85EBCA6B, 32))
    table = _xorshift_(table, 13, 32).mul_(_signed(0xC2B2AE35, 32))
    return _xorshift_(table, 16, 32).to(device)


def hash31(
    keys_B2: torch.Tensor,
    table_V: torch.Tensor,
    out: torch.Tensor | None = None,
    scratch: torch.Tensor | None = None,
) -> torch.Tensor:
    """31 random bits for every (row, token).

    Args:
        keys_B2: int32, one position's keys a row, from ``position_keys``.
        table_V: int32, from ``token_table``.
        out: int32 buffer (B, V) for the result.
        scratch: another one.

    Returns:
        int32 tensor of shape (B, V) with values in [0, 2**31).
    """
    x = torch.bitwise_xor(table_V[None, :], keys_B2[:, 0, None], out=out)
    x = _xorshift_(x, 15, 32, scratch).mul_(_signed(0x2C1B3C6D, 32))
    x.add_(keys_B2[:, 1, None])
    x = _xorshift_(x, 12, 32, scratch).mul_(_signed(0x297A2D39, 32))
    x = _xorshift_(x, 16, 32, scratch).mul_(_signed(0x85EBCA6B, 32))
    # The arithmetic shift clears the sign bit, which leaves the 31 bits that are wanted.
    return x.bitwise_xor_(torch.bitwise_right_shift(x, 16, out=scratch))


def uniform(bits31: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Midpoints in (0, 1) of 31-bit integers, never 0 or 1 in float32 either."""
    scale = 2.0**-31 * (1 - 2.0**-24)
    return bits31.to(dtype).mul_(scale).add_(scale / 2)


def gumbel(bits31: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Standard Gumbel noise from 31-bit integers, in ``dtype`` (float32 or float64).

    ``G = -log(-log(1 - u))``, with ``log1p`` so that the large values, which decide an argmax, keep
    their precision (they come from ``u`` near 0, where floating point is finest).
    """
    return uniform(bits31, dtype).neg_().log1p_().neg_().log_().neg_()


def in_one_kernel(device: torch.device) -> bool:
    """Whether `kdbench.trainers.cuda.noise` draws on this device."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


class GumbelArgmax:
    """Draws tokens from ``softmax(scores)``; keeps the token table and the tile buffers.

    Args:
        vocab: number of tokens.
        device: where scores live.
    """

    def __init__(self, vocab: int, device: torch.device) -> None:
        self._fused = in_one_kernel(device)
        if self._fused:
            return
        self._table_V = token_table(vocab, device)
        self._tile_rows = max(1, (_TILE if device.type == "cpu" else _GPU_TILE) // vocab)
        self._bits = torch.empty(0, vocab, dtype=torch.int32, device=device)

    def __call__(self, scores_BV: torch.Tensor, keys_B2: torch.Tensor) -> torch.Tensor:
        """One token id a row, int64 (B,). ``scores`` float32 or float64, any constant added to a
        row does not matter; -inf is never drawn. ``keys`` as for ``hash31``.
        """
        if self._fused:
            from kdbench.trainers.cuda.noise import draw  # needs Triton, which CPUs do without

            return draw(scores_BV, keys_B2)
        self._make_room(min(len(scores_BV), self._tile_rows))
        tiles = (each.split(self._tile_rows) for each in (scores_BV, keys_B2))
        drawn = [self._tile(scores, keys) for scores, keys in zip(*tiles, strict=True)]
        return drawn[0] if len(drawn) == 1 else torch.cat(drawn)

    def _make_room(self, rows: int) -> None:
        if len(self._bits) < rows:
            self._bits = self._bits.new_empty(rows, self._bits.shape[1])
            self._scratch = torch.empty_like(self._bits)

    def _tile(self, scores_BV: torch.Tensor, keys_B2: torch.Tensor) -> torch.Tensor:
        rows = len(scores_BV)
        bits = hash31(keys_B2, self._table_V, self._bits[:rows], self._scratch[:rows])
        return gumbel(bits, scores_BV.dtype).add_(scores_BV).argmax(dim=-1)
