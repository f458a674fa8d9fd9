"""What a causal language model must do for lm-eval's own tasks: encode, score, answer.

Kept apart from `kdbench.harness.lm` so that neither module grows into a page that knows both
lm-eval and torch.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.data import prompt_key
from kdbench.harness.loglikelihood import Likelihood, LikelihoodScorer
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.types import Answer, Decoding, Prompt


class GenerationSettings(NamedTuple):
    """How one request wants to be answered; ``temperature`` 0 is greedy, ``top_k`` 0 is off."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelSide:
    """A model with all that answering needs.

    Attributes:
        model: in eval mode, on its device.
        tokenizer: the model's.
        vocab: real tokens, end tokens, padding.
        batch_size: rows a forward.
        max_length: context length in tokens, prompt and answer together.
        seed: decoding seed.
        chunk: prompts a chunk of the sampler.
        dtype: compute type of decoding.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vocab: Vocabulary
    batch_size: int
    max_length: int
    seed: int = 0
    chunk: int = 64
    dtype: torch.dtype | None = None

    @property
    def end_id(self) -> int:
        """The first end token."""
        return self.vocab.eos_ids[0]

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Ids of a text. None: as the tokenizer does by default, but never a second begin token."""
        begin = self.tokenizer.bos_token
        if add_special_tokens is None and begin and text.startswith(begin):
            add_special_tokens = False
        wanted = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(text, **wanted))

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Likelihood]:
        """Likelihoods of (context, continuation) pairs of ids."""
        scorer = LikelihoodScorer.of(
            self.model, self.vocab, batch_size=self.batch_size, max_length=self.max_length
        )
        return scorer.score(pairs)

    def answers(self, prompts: Sequence[Prompt], decoding: Decoding) -> Iterator[list[Answer]]:
        """Answers in prompt order, a chunk at a time."""
        from kdbench.trainers.sampler.sampler import generate

        return generate(
            self.model,
            prompts,
            decoding,
            eos_ids=frozenset(self.vocab.eos_ids),
            pad_id=self.vocab.pad_id,
            vocab=self.vocab.size,
            batch_size=self.batch_size,
            chunk=self.chunk,
            dtype=self.dtype,
        )

    def answer(self, prompts: Sequence[str], settings: Sequence[GenerationSettings]) -> list[str]:
        """Answers in the given order; prompts with equal settings are decoded together.

        Prompts too long for the context lose tokens on the left, as in lm-eval.
        """
        from kdbench.trainers.sampler.sampler import generate

        groups: dict[GenerationSettings, list[int]] = defaultdict(list)
        for index, setting in enumerate(settings):
            groups[setting].append(index)
        texts = [""] * len(prompts)
        for setting, indices in groups.items():
            room = self.max_length - setting.max_new_tokens
            if room < 1:
                raise ValueError(
                    f"{setting.max_new_tokens} new tokens do not fit a context of {self.max_length}"
                )
            chunks = generate(
                self.model,
                [self._prompt(prompts[index], room) for index in indices],
                self._decoding(setting),
                eos_ids=frozenset(self.vocab.eos_ids),
                pad_id=self.vocab.pad_id,
                vocab=self.vocab.size,
                batch_size=self.batch_size,
                chunk=self.chunk,
                dtype=self.dtype,
            )
            answers = [answer for chunk in chunks for answer in chunk]
            for index, answer in zip(indices, answers, strict=True):
                text = str(self.tokenizer.decode(list(answer.ids), skip_special_tokens=True))
                texts[index] = cut_at(text, setting.stop)
        return texts

    def _prompt(self, text: str, room: int) -> Prompt:
        return Prompt(ids=tuple(self.encode(text)[-room:]), key=prompt_key(text))

    def _decoding(self, setting: GenerationSettings) -> Decoding:
        return Decoding(
            max_new_tokens=setting.max_new_tokens,
            temperature=setting.temperature,
            top_p=setting.top_p,
            top_k=setting.top_k,
            seed=self.seed,
        )


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first occurrence of any stop text."""
    places = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(places)] if places else text
