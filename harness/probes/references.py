"""The student on reference answers: loss, and calibration of its next-token probabilities."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdbench.harness.data.tokens import encode
from kdbench.harness.probes.models import Probed, prompt_ids
from kdbench.harness.questions import PromptDoc
from kdbench.tasks.protocols import Protocol
from kdbench.trainers.types import Sequence as Tokens

Array = NDArray[np.float64]

REFERENCE_TOKENS = 256
"""A longer reference is cut there, as LMOps minillm's evaluation does for ``lm_loss``."""


@dataclass(frozen=True, slots=True)
class ReferenceTokens:
    """Predictions of every token of the prompts' first references, end tokens included.

    Attributes:
        owner_N: which prompt a token belongs to, counting from 0.
        confidence_N: largest probability.
        correct_N: 1.0 where the likeliest token is the reference's.
        nll_N: -log q(token), nats.
        brier_N: squared distance to the token, summed over the vocabulary.
        prompts: how many prompts.
    """

    owner_N: NDArray[np.int64]
    confidence_N: Array
    correct_N: Array
    nll_N: Array
    brier_N: Array
    prompts: int

    def means(self, values_N: Array) -> Array:
        """A token value's mean for each prompt, (P,): every prompt counts the same."""
        counts = np.bincount(self.owner_N, minlength=self.prompts)
        return np.bincount(self.owner_N, values_N, minlength=self.prompts) / np.maximum(counts, 1)


def reference_tokens(
    student: Probed, docs: Sequence[PromptDoc], protocol: Protocol
) -> ReferenceTokens:
    """One forward over all prompts with their first references (teacher forcing)."""
    prompts = prompt_ids(student.tokenizer, docs, protocol)
    references = encode(student.tokenizer, [doc.references[0] for doc in docs])
    end = student.vocab.eos_ids[0]
    sequences = [
        Tokens(prompt, (*reference, end)[:REFERENCE_TOKENS])
        for prompt, reference in zip(prompts, references, strict=True)
    ]
    columns: dict[str, list[Array]] = defaultdict(list)
    seen, batch = 0, None
    for packed, start, logits_NV in student.logit_tiles(sequences):
        if batch is not None and packed is not batch:
            seen += len(batch.sequences)
        batch = packed
        stop = start + len(logits_NV)
        target_N = packed.target_N[start:stop, None]
        probabilities_NV = logits_NV.softmax(-1)
        best_N, place_N = probabilities_NV.max(-1)
        wanted_N = probabilities_NV.gather(-1, target_N)[:, 0]
        found = {
            "owner": packed.owner_N[start:stop] + seen,
            "confidence": best_N,
            "correct": place_N == target_N[:, 0],
            "nll": -logits_NV.log_softmax(-1).gather(-1, target_N)[:, 0],
            "brier": probabilities_NV.square().sum(-1) - 2 * wanted_N + 1,
        }
        for name, values in found.items():
            columns[name].append(values.to(torch.float64).cpu().numpy())
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return ReferenceTokens(
        owner_N=joined["owner"].astype(np.int64),
        confidence_N=joined["confidence"],
        correct_N=joined["correct"],
        nll_N=joined["nll"],
        brier_N=joined["brier"],
        prompts=len(docs),
    )
