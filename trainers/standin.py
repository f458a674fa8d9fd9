"""What stands in front of an engine and passes on all that is asked of it, but for what it overrides."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from kdbench.trainers.engine import Engine, LoadedModel, TokenLogprobs
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.types import Answer, Decoding, Prompt, Sequence

E = TypeVar("E", bound=Engine)


@dataclass(eq=False)
class Standin(Generic[E]):
    """An `Engine` in front of another.

    Args:
        behind: who is asked.
    """

    behind: E

    @property
    def vocabulary(self) -> Vocabulary:
        """See ``Engine``."""
        return self.behind.vocabulary

    @property
    def max_length(self) -> int | None:
        """See ``Engine``."""
        return self.behind.max_length

    @property
    def device(self) -> torch.device:
        """See ``Engine``."""
        return self.behind.device

    @property
    def dtype(self) -> torch.dtype:
        """See ``Engine``."""
        return self.behind.dtype

    @property
    def batch_size(self) -> int:
        """See ``Engine``."""
        return self.behind.batch_size

    @property
    def chunk(self) -> int:
        """See ``Engine``."""
        return self.behind.chunk

    @property
    def local(self) -> LoadedModel | None:
        """See ``Engine``."""
        return self.behind.local

    def answers(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        *,
        chunk: int | None = None,
        mix: tuple[Engine, float] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[list[Answer]]:
        """See ``Engine``. Two models are mixed token by token, which is always passed on."""
        size, told = chunk or self.chunk, on_progress or (lambda tokens: None)
        if mix is None:
            return self.unmixed(prompts, decoding, size, told)
        return self.behind.answers(prompts, decoding, chunk=size, mix=mix, on_progress=told)

    def unmixed(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        chunk: int,
        on_progress: Callable[[int], None],
    ) -> Iterator[list[Answer]]:
        """``answers`` of one model."""
        return self.behind.answers(prompts, decoding, chunk=chunk, on_progress=on_progress)

    def logprobs(self, sequences: Seq[Sequence]) -> list[TokenLogprobs]:
        """See ``Engine``."""
        return self.behind.logprobs(sequences)
