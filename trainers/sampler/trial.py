"""Whether a decoder computes what its model's plain forward pass does: tried, not assumed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdbench.trainers.sampler.as_asked import evaluating
from kdbench.trainers.sampler.decoders import Decoder

_STEPS = 4
_LONG = 64  # tokens of a window that a trial still crosses


class Agreement(NamedTuple):
    """How far two computations of the same log-probabilities are apart, in nats.

    Attributes:
        worst, mean: of the differences.
        spread: standard deviation of the log-probabilities themselves.
    """

    worst: float
    mean: float
    spread: float

    def holds(self, dtype: torch.dtype) -> bool:
        """Whether rounding in this precision explains the differences.

        In half precision a router may pick another expert by rounding, so that single numbers say
        little; the mean does.
        """
        if dtype.itemsize == 2:
            return self.mean <= 0.05 * self.spread
        return self.worst <= 2e-3 * self.spread


def agreement(one: Tensor, other: Tensor) -> Agreement:
    """Of logits (N, V)."""
    p, q = (x.double().log_softmax(-1) for x in (one, other))
    gaps, spread = (p - q).abs(), float(p.std(-1).mean())
    return Agreement(float(gaps.max()), float(gaps.mean()), max(spread, 1e-12))


@torch.no_grad()
def plain(model: PreTrainedModel, ids: Sequence[int], last: int) -> Tensor:
    """Logits (last, V) of a sequence alone, in one forward pass without a memory."""
    ids_1T = torch.tensor([list(ids)], device=model.device)
    return model(input_ids=ids_1T, use_cache=False).logits[0, -last:]


@torch.no_grad()
def tried(decoder: Decoder, model: PreTrainedModel, *, vocab: int, window: int | None) -> Agreement:
    """Prompts of several lengths side by side, one replaced by another half-way, against each alone.

    Args:
        decoder: of the model, in its precision.
        model: the same.
        vocab: ids below this are drawn.
        window: of its attention; crossed if it is short.
    """
    long = window + 3 if window is not None and window <= _LONG else 9
    generator = torch.Generator().manual_seed(0)
    drawn = [
        torch.randint(vocab, (n + _STEPS,), generator=generator).tolist() for n in (4, long, 6, 7)
    ]
    prompts = [ids[:-_STEPS] for ids in drawn]
    got: list[list[Tensor]] = [[] for _ in drawn]
    rows = [0, 1, 2]
    with evaluating(model), decoder.session():
        decoder.reset(4, max(map(len, drawn)) + 1)
        decoder.fill([0, 1, 2, 3], prompts)
        for step in range(2 * _STEPS):
            if step == _STEPS:
                decoder.move(3, 0)
                rows = [3]
            tokens = [drawn[row][len(prompts[row]) + len(got[row])] for row in rows]
            logits_nV = decoder.step(torch.tensor(tokens, device=decoder.device))[:, :vocab]
            for row, logits_V in zip(rows, logits_nV, strict=True):
                got[row].append(logits_V)
        # what follows the i-th appended token
        expected = [plain(model, ids, _STEPS)[:, :vocab] for ids in drawn]
    return agreement(torch.cat(expected), torch.cat([torch.stack(row) for row in got]))
