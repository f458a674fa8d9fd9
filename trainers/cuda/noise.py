"""A token drawn in one kernel: noise, sum and argmax without the (rows, vocabulary) planes between.

The numbers are those of ``kdbench.trainers.sampler.draw``: the same hash to the bit (``noise_bits``), the
same two roundings of the uniform; log and log1p are libdevice's, which torch's own kernels use too. Where
Triton interprets on a CPU (``TRITON_INTERPRET=1``), both are made of numpy's log and may differ in their
last bit.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

try:
    from triton.language.extra import libdevice
except ImportError:  # of other vendors' builds
    libdevice = None

_BLOCK = 2048  # tokens a program: 75 programs a row at a vocabulary of 152k
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _hash31(token, key_low, key_high):  # type: ignore[no-untyped-def]
    """``draw.token_table`` and ``draw.hash31`` of some tokens under one row's keys, int32."""
    t = token.to(tl.uint32) + 0x9E3779B9
    t = (t ^ (t >> 16)) * 0x85EBCA6B
    t = (t ^ (t >> 13)) * 0xC2B2AE35
    t = t ^ (t >> 16)
    x = t ^ key_low.to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 15)) * 0x2C1B3C6D
    x = x + key_high.to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 12)) * 0x297A2D39
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    signed = x.to(tl.int32, bitcast=True)
    return signed ^ (signed >> 16)  # an arithmetic shift: it clears the sign


@triton.jit
def _gumbel(bits, dtype: tl.constexpr, LIBDEVICE: tl.constexpr):  # type: ignore[no-untyped-def]
    """``draw.gumbel``: -log(-log1p(-u)); both constants are exact in float32."""
    scale = 4.656612595521636e-10  # 2**-31 * (1 - 2**-24)
    u = bits.to(dtype) * scale + scale / 2
    if LIBDEVICE:
        return -libdevice.log(-libdevice.log1p(-u))
    rest = 1 - u  # log1p(-u) = log(rest) * u / (1 - rest), which mends the rounding of rest
    lost = 1 - rest
    near = tl.where(lost == 0, u, -tl.log(rest) * (u / tl.where(lost == 0, 1.0, lost)))
    return -tl.log(near)


@triton.jit
def _bits_kernel(keys, out, vocab, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    bits = _hash31(token, tl.load(keys + 2 * row), tl.load(keys + 2 * row + 1))
    tl.store(out + row.to(tl.int64) * vocab + token, bits, mask=token < vocab)


@triton.jit
def _draw_kernel(  # type: ignore[no-untyped-def]
    scores,
    keys,
    best,
    place,
    vocab,
    stride,
    BLOCK: tl.constexpr,
    LIBDEVICE: tl.constexpr,
):
    row, part = tl.program_id(0), tl.program_id(1)
    token = part * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab
    bits = _hash31(token, tl.load(keys + 2 * row), tl.load(keys + 2 * row + 1))
    score = tl.load(scores + row.to(tl.int64) * stride + token, mask=inside, other=-float("inf"))
    score = score + _gumbel(bits, scores.dtype.element_ty, LIBDEVICE)
    at = row * tl.num_programs(1) + part
    tl.store(best + at, tl.max(score, axis=0))
    tl.store(place + at, part * BLOCK + tl.argmax(score, axis=0))


def noise_bits(keys_B2: Tensor, vocab: int) -> Tensor:
    """31 random bits for every (row, token), int32 (B, vocab): ``draw.hash31`` in one kernel."""
    out = torch.empty(len(keys_B2), vocab, dtype=torch.int32, device=keys_B2.device)
    grid = (len(keys_B2), triton.cdiv(vocab, _BLOCK))
    _bits_kernel[grid](keys_B2.contiguous(), out, vocab, BLOCK=_BLOCK)
    return out


def draw(scores_BV: Tensor, keys_B2: Tensor) -> Tensor:
    """One token id a row, int64 (B,): ``draw.GumbelArgmax`` in three kernels.

    Args:
        scores_BV: float32 or float64, rows at any stride; -inf is never drawn.
        keys_B2: int32, one position's keys a row.
    """
    rows, vocab = scores_BV.shape
    if scores_BV.stride(1) != 1:
        scores_BV = scores_BV.contiguous()
    grid = (rows, triton.cdiv(vocab, _BLOCK))
    best_BP = scores_BV.new_empty(grid)
    place_BP = torch.empty(grid, dtype=torch.int64, device=scores_BV.device)
    _draw_kernel[grid](
        scores_BV,
        keys_B2.contiguous(),
        best_BP,
        place_BP,
        vocab,
        scores_BV.stride(0),
        BLOCK=_BLOCK,
        LIBDEVICE=libdevice is not None and not _INTERPRETED,
        enable_fp_fusion=False,  # a fused multiply-add would round the uniform once, not twice
    )
    return place_BP.gather(1, best_BP.argmax(1, keepdim=True)).squeeze(1)
