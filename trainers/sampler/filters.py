"""What is taken away from a next-token distribution before it is sampled, as pure functions.

Meanings and order are those of transformers' generation (n-gram block, temperature, top-k, top-p),
so that a protocol written for one decodes the same with the other.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch

from kdbench.trainers.types import Decoding


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
        if len(self._last) < self._n - 1:
            return ()
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
