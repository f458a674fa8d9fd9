"""Whether answers of another engine are those that our sampler draws: replayed, token by token.

Given the answer so far, a plain forward pass gives the scores of the next token, and our noise the token
that is drawn. Where the other engine took another one, the gap between the two says why: rounding makes
small ones, another model, weights that are not the latest, or other noise make large ones.
"""

from collections.abc import Sequence as Seq
from typing import NamedTuple

import torch

from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.sampler.as_asked import cast_copy, evaluating
from kdbench.trainers.sampler.draw import (
    NgramBlock,
    filtered,
    gumbel,
    hash31,
    position_keys,
    stream_key,
    token_table,
)
from kdbench.trainers.sampler.trial import plain
from kdbench.trainers.types import Answer, Decoding, Prompt

ANSWERS, TOKENS = 8, 64
"""What is compared at a start, at most."""


class Replay(NamedTuple):
    """Of answers that were compared.

    Attributes:
        answers, tokens: how many.
        differing: tokens that we would have drawn otherwise, given the ones before.
        equal: answers without such a token.
        worst: the largest gap between the score of our token and of the one taken, in nats.
        mean: of the gaps over all tokens.
        spread: standard deviation of the log-probabilities, in nats.
    """

    answers: int
    tokens: int
    differing: int
    equal: int
    worst: float
    mean: float
    spread: float

    def holds(self, dtype: torch.dtype) -> bool:
        """Whether rounding in this precision explains the gaps; see `sampler.trial.Agreement`."""
        if dtype.itemsize == 2:
            return self.mean <= 0.05 * self.spread
        return self.worst <= 2e-3 * self.spread

    def __str__(self) -> str:
        compared = (
            f"{self.equal} of {self.answers} compared answers ({self.tokens} tokens) are ours"
        )
        if not self.differing:
            return compared
        return f"{compared}; {self.differing} tokens differ by at most {self.worst:.2g} nats"


@torch.no_grad()
def replayed(
    engine: LoadedModel, prompts: Seq[Prompt], answers: Seq[Answer], decoding: Decoding
) -> Replay:
    """Compares answers of another engine with what ours draws.

    Args:
        engine: the same model in this process.
        prompts: what was asked.
        answers: what came back.
        decoding: how it was asked.
    """
    vocab, model = engine.vocabulary.size, engine.model
    if engine.dtype != model.dtype:
        model = cast_copy(model, engine.dtype)
    gaps, spreads = [], []
    with evaluating(model):
        for prompt, answer in zip(prompts, answers, strict=True):
            if answer.ids:
                ids, n = [*prompt.ids, *answer.ids[:-1]], len(answer.ids)
                logits_NV = plain(model, ids, n)[:, :vocab].float()
                spreads.append(float(logits_NV.log_softmax(-1).std(-1).mean()))
                gaps.append(_gaps(logits_NV, prompt, answer, decoding))
    gap_N = torch.cat(gaps) if gaps else torch.zeros(1)
    return Replay(
        answers=len(gaps),
        tokens=sum(map(len, gaps)),
        differing=int((gap_N > 0).sum()),
        equal=sum(bool((each == 0).all()) for each in gaps),
        worst=float(gap_N.max()),
        mean=float(gap_N.mean()),
        spread=sum(spreads) / max(1, len(spreads)),
    )


def _gaps(
    logits_NV: torch.Tensor, prompt: Prompt, answer: Answer, decoding: Decoding
) -> torch.Tensor:
    """How much more our token scores than the one taken, at each position; 0 where they are one."""
    n, vocab = logits_NV.shape
    blocks = []
    if size := decoding.no_repeat_ngram:
        before = [*prompt.ids, *answer.ids]
        blocks = [NgramBlock(size, before[: len(prompt.ids) + i]) for i in range(n)]
    scores_NV = filtered(logits_NV, decoding, blocks)
    if decoding.temperature:
        stream = stream_key(decoding.seed, prompt.key, prompt.sample)
        keys_N2 = position_keys([stream], n, logits_NV.device)[0]
        table_V = token_table(vocab, logits_NV.device)
        scores_NV = scores_NV + gumbel(hash31(keys_N2, table_V), scores_NV.dtype)
    taken_N1 = torch.tensor(answer.ids, device=scores_NV.device)[:, None]
    return (scores_NV.amax(-1) - scores_NV.gather(-1, taken_N1)[:, 0]).cpu()
