"""Decoding steps recorded once as CUDA graphs and replayed: one launch for some hundreds of kernels.

A step computes on the same tensors every time (slots, mask, tokens), so its kernels are the same for the
same number of rows and columns. The first such step runs as it is written, which also warms up
what libraries choose at their first call; the second is recorded, all later ones are replayed.
The kernels, and so the numbers, are those of the step as it is written.
"""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Body = Callable[[], Tensor]

COLUMNS = 64
"""Widths of recorded steps are multiples of it: the mask hides what is read beyond a row's end."""


class Recorder:
    """Records steps as graphs that share one memory: one at a time is replayed, and its result read."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, body: Body) -> Body:
        """The kernels of ``body`` as a graph; what it returns lies in the same memory each time."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                out = body()
        finally:  # a recording that fails leaves its own stream the current one
            torch.cuda.set_stream(stream)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def without_waiting(body: Body) -> Tensor:
    """Runs a step in which the host may not wait for the device.

    A recording would fail there, and torch leaves one that failed under way for good.

    Raises:
        RuntimeError: the host would wait.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return body()
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Graphs:
    """Graphs by what their kernels depend on.

    Args:
        recorder: makes what makes graphs of steps.
        first: runs a step that is not recorded yet.
    """

    def __init__(
        self,
        recorder: Callable[[], Callable[[Body], Body]] = Recorder,
        first: Callable[[Body], Tensor] = lambda body: body(),
    ) -> None:
        self._recorder, self._first = recorder, first
        self._record: Callable[[Body], Body] | None = None
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, Body] = {}

    def __call__(self, key: Hashable, body: Body) -> Tensor:
        """What ``body`` returns; valid until the next call.

        Args:
            key: equal for steps of the same kernels on the same memory.
            body: reads and writes nothing but tensors that stay where they are.
        """
        if key in self._graphs:
            return self._graphs[key]()
        if key not in self._seen:
            self._seen.add(key)
            return self._first(body)
        self._record = self._record or self._recorder()
        replay = self._graphs[key] = self._record(body)
        return replay()  # recording runs nothing

    def clear(self) -> None:
        """Forgets all: the memory they work on is no longer in use."""
        self._seen.clear()
        self._graphs.clear()
        self._record = None  # a pool whose graphs are all gone takes no new ones
