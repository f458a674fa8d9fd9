"""Work dealt to processes and put together again, the same on each of them."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object

from kdbench.harness.errors import InputError, KdbenchError

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = timedelta(hours=24)
"""How long a process waits for another: the first may evaluate, or a slow disk be written, meanwhile."""


def dealt(sizes: Seq[int], world: int) -> list[list[int]]:
    """Which items each of ``world`` processes takes.

    One by one, the largest first, so that all have alike to do; a single process takes them in order.
    """
    if world == 1:
        return [list(range(len(sizes)))]
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    return [order[rank::world] for rank in range(world)]


def of_main(make: Callable[[], Result], *, main: bool) -> Result:
    """What the main rank makes, on every rank: each rank's own look at a shared file could differ.

    Args:
        make: called on the main rank alone.
        main: whether this process is that; one alone is.

    Raises:
        KdbenchError: the main rank's, on every rank: the others would wait for it for ever.
    """
    box: list[Any] = [None, None]
    if main:
        try:
            box[0] = make()
        except KdbenchError as error:
            box[1] = error
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(box)
    made, failed = box
    if failed is not None:
        raise failed
    return made


def of_first(found: Result) -> Result:
    """What the first process found, on all of them, where rounding could tell the others something else."""
    box: list[Any] = [found]
    torch.distributed.broadcast_object_list(box)
    first: Result = box[0]
    return first


def together(work: Callable[[], Result]) -> Result:
    """What ``work`` gives in this process; where it fails in one, all end, and none waits for it.

    ``work`` is this process's own, without a collective: in one, the others would never come to hear of it.

    Raises:
        Exception: what ``work`` raised here.
        InputError: says what it raised in the first of the others.
    """
    failed: Exception | None = None
    try:
        found = work()
    except Exception as error:
        failed = error
    said = [each for each in gather_object([failed and (str(failed) or repr(failed))]) if each]
    if failed is not None:
        raise failed
    if said:
        raise InputError(f"another process failed: {said[0]}")
    return found


def over_ranks(
    items: Seq[Item],
    sizes: Seq[int],
    work: Callable[[list[Item]], Seq[Result]],
    *,
    rank: int,
    world: int,
    in_step: bool = False,
) -> list[Result]:
    """``work`` of all items in their order, the same on every process; each does its share.

    Args:
        items: the same on every process.
        sizes: how much there is to do for each.
        work: one result an item.
        rank: of this process.
        world: how many there are.
        in_step: ``work`` itself needs all processes, as a pass of a shared model does. Where it fails in one,
            the others wait inside it: that process has to end, and its launcher ends them.

    Raises:
        Exception: what ``work`` raised here, or unless ``in_step`` in another process; see `together`.
    """
    if world == 1:
        return list(work(list(items)))
    deal = dealt(sizes, world)

    def share() -> list[Result]:
        return list(work([items[i] for i in deal[rank]]))

    mine = share() if in_step else together(share)
    places = (i for part in deal for i in part)
    found = (result for part in gather_object([mine]) for result in part)
    by_place = dict(zip(places, found, strict=True))
    return [by_place[i] for i in range(len(items))]
