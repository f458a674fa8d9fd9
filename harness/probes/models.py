"""A loaded model with what probing it needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.data.tokens import encode
from kdbench.harness.questions import PromptDoc
from kdbench.tasks.protocols import Protocol
from kdbench.trainers.batching import Layout, micro_batches
from kdbench.trainers.head.head import Head, backbone_hidden, head_of
from kdbench.trainers.head.kernels import default_rows
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.packing import is_packable
from kdbench.trainers.sampler.sampler import generate
from kdbench.trainers.types import Answer, Decoding, Packed, Prompt
from kdbench.trainers.types import Sequence as Tokens

MICRO_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Probed:
    """A model with its tokenizer and how to run it.

    Attributes:
        model: in eval mode, on its device.
        tokenizer: the model's.
        vocab: real tokens, end tokens, padding.
        batch_size: rows decoded at once.
        chunk: prompts a chunk.
        dtype: compute type of decoding.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vocab: Vocabulary
    batch_size: int
    chunk: int
    dtype: torch.dtype | None

    @property
    def head(self) -> Head:
        """The model's head over the real tokens."""
        return head_of(self.model, self.vocab.size)

    def answers(self, prompts: Sequence[Prompt], decoding: Decoding) -> list[Answer]:
        """Sampled answers in prompt order, decoded as one chunk."""
        chunks = generate(
            self.model,
            prompts,
            decoding,
            eos_ids=frozenset(self.vocab.eos_ids),
            pad_id=self.vocab.pad_id,
            vocab=self.vocab.size,
            batch_size=self.batch_size,
            chunk=max(1, len(prompts)),
            dtype=self.dtype,
        )
        return [answer for chunk in chunks for answer in chunk]

    def layout(self, sequences: Sequence[Tokens], *others: PreTrainedModel) -> Layout:
        """Rows that hold all of these sequences and that all models can read."""
        models = (self.model, *others)
        longest = max((len(sequence) for sequence in sequences), default=1)
        return Layout(
            row=max(longest, 512),
            pad_id=self.vocab.pad_id,
            packed=all(_packable(model, self.vocab.size) for model in models),
            device=self.model.device,
        )

    @torch.no_grad()
    def logit_tiles(self, sequences: Sequence[Tokens]) -> Iterator[tuple[Packed, int, Tensor]]:
        """Logits at response tokens, a tile at a time: (rows, number of first target, (n, V))."""
        layout = self.layout(sequences)
        rows = default_rows(self.vocab.size)
        for batch in micro_batches(sequences, MICRO_TOKENS):
            packed = layout(batch)
            hidden_ND = backbone_hidden(self.model, packed)
            for start in range(0, len(hidden_ND), rows):
                yield packed, start, self.head.logits(hidden_ND[start : start + rows]).float()


_packed_well: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def _packable(model: PreTrainedModel, vocab: int) -> bool:
    """`is_packable`, probed once a model."""
    if model not in _packed_well:
        _packed_well[model] = is_packable(model, vocab)
    return _packed_well[model]


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, docs: Sequence[PromptDoc], protocol: Protocol
) -> list[tuple[int, ...]]:
    """Token ids of prepared prompts; what the protocol cuts is cut."""
    encoded = encode(tokenizer, [doc.prompt for doc in docs])
    return [tuple(ids[: protocol.max_prompt]) for ids in encoded]
