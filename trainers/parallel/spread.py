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

from accelerate.utils import broadcast_object_list

from kdbench.harness.errors import KdbenchError
from kdbench.trainers.engine import Engine, TokenLogprobs
from kdbench.trainers.parallel.ranks import over_ranks
from kdbench.trainers.standin import Standin
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


@dataclass(eq=False, kw_only=True)
class Spread(Standin[Engine]):
    """The leader's ``Engine``: what is asked of it all processes answer together.

    Args:
        behind: the model in this process.
        rank, world: of this process, and how many there are.
    """

    rank: int
    world: int

    def unmixed(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        chunk: int,
        on_progress: Callable[[int], None],
    ) -> Iterator[list[Answer]]:
        """See ``Standin``: as many chunks at a time as there are processes."""
        for i in range(0, len(prompts), chunk * self.world):
            asked = list(prompts[i : i + chunk * self.world])
            found: list[Answer] = self._all("answers", asked, decoding, chunk)
            for answer in found:
                on_progress(len(answer.ids))
            for j in range(0, len(found), chunk):
                yield found[j : j + chunk]

    def logprobs(self, sequences: Seq[Sequence]) -> list[TokenLogprobs]:
        """See ``Engine``."""
        return self._all("logprobs", list(sequences))

    def _all(self, name: str, *arguments: Any) -> Any:
        _announce((name, arguments))
        return _Share(engine=self.behind, rank=self.rank, world=self.world).does(name)(*arguments)


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
    except BaseException as error:
        _announce(("", error.exit_code if isinstance(error, KdbenchError) else 1))
        raise
    _announce(("", 0))


def _announce(order: Order | None) -> Order:
    """The leader's order, on every process."""
    box = [order]
    broadcast_object_list(box)
    assert box[0] is not None
    return box[0]
