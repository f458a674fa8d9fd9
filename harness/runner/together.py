"""A model that is evaluated on several processes: the first reads and writes, all of them answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from kdbench.harness.runner.models import Located
from kdbench.harness.runner.probing import text_model
from kdbench.harness.session import Session
from kdbench.harness.text_model import TextModel
from kdbench.trainers.parallel.spread import Spread, leading, serve


@contextmanager
def answering_together(session: Session, model: Located | None) -> Iterator[bool]:
    """Whether this process asks; one that does not has answered all that was asked when it is told.

    Args:
        session: the command, with this process's place among all.
        model: who answers; None: the truth, which the first process knows alone.
    """
    rank, world = session.place
    if world == 1 or model is None:
        yield session.is_main
    elif session.is_main:
        with leading():
            yield True
    else:
        serve(lambda: text_model(session, model).engine, rank=rank, world=world)
        yield False


def spread_model(session: Session, model: Located) -> TextModel:
    """A model with its tokenizer, whose answers all processes write together; see `text_model`."""
    loaded, (rank, world) = text_model(session, model), session.place
    if world == 1:
        return loaded
    return replace(loaded, engine=Spread(behind=loaded.engine, rank=rank, world=world))
