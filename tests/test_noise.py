"""The counter-based noise: uniform, independent in every argument, and the same everywhere."""

import math

import pytest
import torch
from scipy import stats

from kdbench.trainers.sampler.draw import (
    GumbelArgmax,
    gumbel,
    hash31,
    position_keys,
    stream_key,
    token_table,
    uniform,
)

CPU = torch.device("cpu")
# Fixed hashes: these tests are deterministic, so a p-value bound cannot flicker.
SMALL_P = 1e-3


def noise_PV(seed: int = 1, key: int = 2, sample: int = 0, positions: int = 64, vocab: int = 4096):
    keys = position_keys([stream_key(seed, key, sample)], positions, CPU)[0]
    return uniform(hash31(keys, token_table(vocab, CPU)), torch.float64)


def test_uniform_over_tokens_positions_keys_samples_and_seeds():
    planes = {
        "tokens": noise_PV(positions=1, vocab=1 << 16),
        "positions": noise_PV(positions=1 << 16, vocab=1),
        "keys": torch.cat([noise_PV(key=key, positions=1, vocab=16) for key in range(2000)]),
        "samples": torch.cat([noise_PV(sample=s, positions=1, vocab=16) for s in range(2000)]),
        "seeds": torch.cat([noise_PV(seed=seed, positions=1, vocab=16) for seed in range(2000)]),
        "everything": noise_PV(),
    }
    for name, plane in planes.items():
        values = plane.flatten().numpy()
        assert stats.kstest(values, "uniform").pvalue > SMALL_P, name
        counts = torch.histc(plane, bins=256, min=0, max=1).numpy()
        assert stats.chisquare(counts).pvalue > SMALL_P, name


def test_every_bit_is_fair_and_independent_of_every_other():
    keys = position_keys([stream_key(5, 6, 7)], 256, CPU)[0]
    bits = hash31(keys, token_table(2048, CPU)).flatten()
    planes = torch.stack([(bits >> bit) & 1 for bit in range(31)]).double()
    n = planes.shape[1]
    assert ((planes.mean(1) - 0.5).abs() < 5 * 0.5 / math.sqrt(n)).all()
    correlation = torch.corrcoef(planes) - torch.eye(31)
    assert correlation.abs().max() < 5.5 / math.sqrt(n)


@pytest.mark.parametrize("change", ["token", "position", "key", "sample", "seed"])
def test_neighbouring_arguments_give_independent_noise(change):
    one = noise_PV()
    if change == "token":
        first, second = one[:, :-1], one[:, 1:]
    elif change == "position":
        first, second = one[:-1], one[1:]
    else:
        first = one
        second = noise_PV(**{{"key": "key", "sample": "sample", "seed": "seed"}[change]: 3})
    table = torch.histogramdd(
        torch.stack([first.flatten(), second.flatten()], dim=1).float(),
        bins=[16, 16],
        range=[0.0, 1.0, 0.0, 1.0],
    ).hist
    assert stats.chisquare(table.flatten().double().numpy()).pvalue > SMALL_P


def test_winners_of_neighbouring_positions_are_independent():
    winners = noise_PV(positions=20000, vocab=16).argmax(dim=1)
    pairs = torch.bincount(winners[:-1] * 16 + winners[1:], minlength=256)
    assert stats.chisquare(pairs.numpy()).pvalue > SMALL_P


def test_gumbel_distribution_in_both_precisions():
    keys = position_keys([stream_key(0, 0, 0)], 32, CPU)[0]
    bits = hash31(keys, token_table(4096, CPU))
    double, single = gumbel(bits, torch.float64), gumbel(bits, torch.float32)
    assert stats.kstest(double.flatten().numpy(), stats.gumbel_r.cdf).pvalue > SMALL_P
    large = double > 0  # the noise that decides an argmax must be precise
    assert torch.allclose(double[large], single[large].double(), rtol=1e-6, atol=1e-6)


def test_uniform_never_reaches_its_ends():
    ends = torch.tensor([0, 2**31 - 1], dtype=torch.int32)
    for dtype in (torch.float32, torch.float64):
        low, high = uniform(ends, dtype).tolist()
        assert 0 < low < high < 1
        assert gumbel(ends, dtype).isfinite().all()


def test_a_row_does_not_depend_on_the_others_or_on_the_vocabulary_width():
    keys = position_keys([stream_key(1, key, 0) for key in range(9)], 3, CPU)[:, 2]
    whole = hash31(keys, token_table(500, CPU))
    assert torch.equal(whole[4:5], hash31(keys[4:5], token_table(500, CPU)))
    assert torch.equal(whole[:, :77], hash31(keys, token_table(77, CPU)))


def test_the_hash_is_frozen():
    """Stored samples are reproduced by these numbers: a change of them is a new sampler version."""
    keys = position_keys([stream_key(10, 123456789, 1)], 3, CPU)[0]
    assert keys.tolist() == FROZEN_KEYS
    assert hash31(keys, token_table(4, CPU)).tolist() == FROZEN_BITS


FROZEN_KEYS = [[1300015157, -248971205], [-1109897880, 117877920], [-1730064375, -885036794]]
FROZEN_BITS = [
    [1579975471, 2115471507, 9761702, 1566123336],
    [738286387, 1872229557, 249255593, 911638983],
    [853579552, 1375303318, 272215654, 1763679755],
]


def test_positions_are_a_splitmix64_counter():
    from kdbench.trainers.sampler.draw import _mix64

    start = stream_key(1, 2, 3)
    low, high = position_keys([start], 4, CPU)[0, 3].tolist()
    state = _mix64((start + 4 * 0x9E3779B97F4A7C15) % 2**64)
    assert (low % 2**32, high % 2**32) == (state % 2**32, state >> 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_argmax_draws_from_the_softmax(dtype):
    probability = torch.tensor([0.5, 0.25, 0.2, 0.05, 0.0], dtype=torch.float64)
    n = 20000
    keys = position_keys([stream_key(3, 4, 5)], n, CPU)[0]
    scores = probability.log().to(dtype).expand(n, -1)
    drawn = GumbelArgmax(5, CPU)(scores, keys)
    counts = torch.bincount(drawn, minlength=5)
    assert counts[4] == 0
    assert stats.chisquare(counts[:4].numpy(), n * probability[:4].numpy()).pvalue > SMALL_P


def test_argmax_in_tiles_equals_one_piece():
    vocab = 1 << 17  # two rows a tile
    keys = position_keys([stream_key(1, key, 0) for key in range(5)], 1, CPU)[:, 0]
    scores = torch.randn(5, vocab, generator=torch.Generator().manual_seed(0))
    whole = (gumbel(hash31(keys, token_table(vocab, CPU)), torch.float32) + scores).argmax(-1)
    assert torch.equal(GumbelArgmax(vocab, CPU)(scores, keys), whole)


def test_only_one_possible_token_is_always_drawn():
    scores = torch.full((4000, 3), -torch.inf)
    scores[:, 1] = -50.0
    keys = position_keys([stream_key(9, 9, 9)], 4000, CPU)[0]
    assert (GumbelArgmax(3, CPU)(scores, keys) == 1).all()
