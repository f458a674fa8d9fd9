"""An evaluation on several processes: the first leads it, the others answer their share of its prompts.

Only the leader reads and writes files. What it asks of its engine it announces to the others, which hold
the same model; they serve until it says that there is nothing more.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from kdbench.trainers.engine import Engine, LoadedModel, TokenLogprobs
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.parallel.ranks import over_ranks
from kdbench.trainers.types import Answer, Decoding, Prompt, Sequence

Order = tuple[str, Any]
"""A method of `_Share` and its arguments; what ends the service has no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What a process computes of an announced piece of work; every process calls the same."""

    engine: Engine
    rank: int
    world: int

    def does(self, name: str) -> Callable[..., Any]:
        known: dict[str, Callable[..., Any]] = {"answers": self.answers, "logprobs": self.logprobs}
        return known[name]

    def answers(self, prompts: list[Prompt], decoding: Decoding, chunk: int) -> list[Answer]:
        sizes = [len(prompt.ids) for prompt in prompts]

        def work(mine: list[Prompt]) -> list[Answer]:
            return list(chain.from_iterable(self.engine.answers(mine, decoding, chunk=chunk)))

        return over_ranks(prompts, sizes, work, rank=self.rank, world=self.world)

    def logprobs(self, sequences: list[Sequence]) -> list[TokenLogprobs]:
        sizes = list(map(len, sequences))
        work = self.engine.logprobs
        return over_ranks(sequences, sizes, work, rank=self.rank, world=self.world)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The leader's ``Engine``: what is asked of it all processes answer together.

    Attributes:
        own: the model in this process.
        rank, world: of this process, and how many there are.
    """

    own: Engine
    rank: int
    world: int

    @property
    def local(self) -> LoadedModel | None:
        """See ``Engine``."""
        return self.own.local

    @property
    def vocabulary(self) -> Vocabulary:
        """See ``Engine``."""
        return self.own.vocabulary

    @property
    def max_length(self) -> int | None:
        """See ``Engine``."""
        return self.own.max_length

    @property
    def device(self) -> torch.device:
        """See ``Engine``."""
        return self.own.device

    @property
    def dtype(self) -> torch.dtype:
        """See ``Engine``."""
        return self.own.dtype

    @property
    def batch_size(self) -> int:
        """See ``Engine``."""
        return self.own.batch_size

    @property
    def chunk(self) -> int:
        """See ``Engine``."""
        return self.own.chunk

    def answers(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        *,
        chunk: int | None = None,
        mix: tuple[Engine, float] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[list[Answer]]:
        """See ``Engine``. As many chunks at a time as there are processes; two models mixed, alone."""
        size = chunk or self.chunk
        if mix is not None:
            yield from self.own.answers(
                prompts, decoding, chunk=size, mix=mix, on_progress=on_progress
            )
            return
        for i in range(0, len(prompts), size * self.world):
            asked = list(prompts[i : i + size * self.world])
            found: list[Answer] = self._all("answers", asked, decoding, size)
            for answer in found:
                if on_progress is not None:
                    on_progress(len(answer.ids))
            for j in range(0, len(found), size):
                yield found[j : j + size]

    def logprobs(self, sequences: Seq[Sequence]) -> list[TokenLogprobs]:
        """See ``Engine``."""
        return self._all("logprobs", list(sequences))

    def _all(self, name: str, *arguments: Any) -> Any:
        _announce((name, arguments))
        return _Share(engine=self.own, rank=self.rank, world=self.world).does(name)(*arguments)


def serve(load: Callable[[], Engine], *, rank: int, world: int) -> None:
    """Answers what the leader announces until it is done; the model is loaded when first needed.

    Raises:
        SystemExit: the leader failed, and said why.
    """
    engine: Engine | None = None
    while True:
        name, arguments = _announce(None)
        if not name:
            if arguments:
                raise SystemExit(arguments)
            return
        engine = load() if engine is None else engine
        _Share(engine=engine, rank=rank, world=world).does(name)(*arguments)


@contextmanager
def leading() -> Iterator[None]:
    """Lets the others go at the end, whatever it is."""
    try:
        yield
    except BaseException:
        _announce(("", 1))
        raise
    _announce(("", 0))


def _announce(order: Order | None) -> Order:
    """The leader's order, on every process."""
    box = [order]
    broadcast_object_list(box)
    assert box[0] is not None
    return box[0]
