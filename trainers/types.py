"""The nouns that methods, the loop, the head and the sampler share.

Dimension suffixes used throughout ``kdbench.trainers``: ``N`` target tokens of a micro-batch, ``V``
vocabulary, ``D`` hidden size, ``R`` packed rows, ``T`` positions a row, ``B`` sequences.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch


@dataclass(frozen=True, slots=True)
class Sequence:
    """A prompt and a response as token ids; plain text has an empty prompt and all tokens in response.

    Args:
        prompt: token ids, beginning-of-sequence included where the tokenizer wants it.
        response: token ids; ends with the end token if the answer ended.
        key: 63-bit id of the prompt text; seeds the sampler's noise.
        columns: extra per-response-token values, each of shape (len(response),), e.g. old log-probs.
        twin: the same text in the teacher's tokens, where the teacher has a tokenizer of its own.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    key: int = 0
    columns: dict[str, torch.Tensor] = field(default_factory=dict)
    twin: "Sequence | None" = None

    @property
    def targets(self) -> int:
        """Number of tokens that are predicted: all of the response (text: all but its first token)."""
        return len(self.response) if self.prompt else max(0, len(self.response) - 1)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


class Packed(NamedTuple):
    """Sequences laid out in rows, with what to read and what to predict.

    ``source_N`` indexes the flattened (R*T) positions whose output predicts ``target_N``;
    ``owner_N`` is the index of the sequence each target belongs to and ``place_N`` the target's
    offset inside its response (0 = first response token). ``twin`` is what the teacher reads instead,
    if it has a tokenizer of its own. ``lengths`` are those of the sequences that fill packed rows, in
    order, what is left of a row among them.
    """

    input_ids_RT: torch.Tensor
    position_ids_RT: torch.Tensor
    attention_mask_RT: torch.Tensor | None
    source_N: torch.Tensor
    target_N: torch.Tensor
    owner_N: torch.Tensor
    place_N: torch.Tensor
    sequences: tuple[Sequence, ...]
    columns: dict[str, torch.Tensor]
    twin: "Packed | None" = None
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the sampler answers. ``key`` and ``sample`` seed the noise; equal key = equal noise."""

    ids: tuple[int, ...]
    key: int
    sample: int = 0


class Answer(NamedTuple):
    """A sampled response: ``ids`` includes the end token if ``finished``."""

    ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How to sample. ``top_k`` 0 and ``top_p`` 1 are off; ``temperature`` 0 is greedy;
    ``no_repeat_ngram`` 0 is off (counted over prompt + response, as transformers does).
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    no_repeat_ngram: int = 0
    seed: int = 0
