"""Log-likelihoods of continuations under a causal language model, in batches, with little padding.

Only the hidden states that predict a continuation reach the head, so (batch, time, vocabulary) is
never built; continuations of one token after the same context share one forward.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from kdbench.trainers.head.head import Head, head_of
from kdbench.trainers.models import Vocabulary


class Likelihood(NamedTuple):
    """Sum of the continuation's token log-probabilities (nats), and whether each was the argmax."""

    log_probability: float
    greedy: bool


@dataclass(slots=True)
class LikelihoodScorer:
    """Scores (context, continuation) pairs of token ids.

    Attributes:
        model: in eval mode, on its device.
        head: its head, from `head_of`.
        pad_id: fills rows.
        batch_size: rows a forward.
        max_length: context length; longer pairs lose tokens on the left, as in lm-eval.
    """

    model: PreTrainedModel
    head: Head
    pad_id: int
    batch_size: int
    max_length: int

    @classmethod
    def of(
        cls, model: PreTrainedModel, vocab: Vocabulary, *, batch_size: int, max_length: int
    ) -> "LikelihoodScorer":
        """A scorer for a model; columns beyond ``vocab.size`` take no part."""
        return cls(model, head_of(model, vocab.size), vocab.pad_id, batch_size, max_length)

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Likelihood]:
        """Likelihood of each continuation after its (non-empty) context, in the given order."""
        wanted: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (context, continuation) in enumerate(pairs):
            if not context or not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f"pair {index}: {len(context)} context and {len(continuation)} continuation "
                    f"tokens do not fit a context length of {self.max_length}"
                )
            ids = (*context, *continuation)[-(self.max_length + 1) :]
            wanted[ids[:-1]].append(index)
        result: list[Likelihood | None] = [None] * len(pairs)
        # longest first: what does not fit into memory fails at once
        inputs = sorted(wanted, key=lambda ids: (-len(ids), ids))
        for start in range(0, len(inputs), self.batch_size):
            batch = inputs[start : start + self.batch_size]
            for ids, hidden_TD in zip(batch, self._hidden(batch), strict=True):
                for index in wanted[ids]:
                    result[index] = self._likelihood(hidden_TD, pairs[index][1])
        return [likelihood for likelihood in result if likelihood is not None]

    def _hidden(self, batch: list[tuple[int, ...]]) -> Iterator[Tensor]:
        """Head inputs (T, D) of each row; positions count from 0 as padding is on the right."""
        device = self.model.device
        rows = [torch.tensor(ids, device=device) for ids in batch]
        ids_BT = pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        mask_BT = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        network = self.model if self.head.dense else self.model.base_model
        hidden_BTD = network(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)[0]
        for hidden_TD, ids in zip(hidden_BTD, batch, strict=True):
            yield hidden_TD[: len(ids)]

    def _likelihood(self, hidden_TD: Tensor, continuation: Sequence[int]) -> Likelihood:
        target_N = torch.tensor(list(continuation), device=hidden_TD.device)
        logits_NV = self.head.logits(hidden_TD[-len(continuation) :]).float()
        log_q_NV = logits_NV.log_softmax(-1)
        total = log_q_NV.gather(-1, target_N[:, None]).sum()
        return Likelihood(float(total), bool((logits_NV.argmax(-1) == target_N).all()))
