"""What a person sees while a stage works: a live line on a terminal, a bar in a notebook, else plain lines.

Everything goes to standard error, so that standard output is the table or the JSON document; and, quiet or
not, to the log of the folder that is being written (`kdbench.harness.files.run_log`).
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kdbench.harness.files.run_log import note
from kdbench.harness.notebook import Bar, in_notebook
from kdbench.harness.printing import printable, unguarded

PLAIN_EVERY = 10.0  # seconds between plain lines
PLAIN_FIRST = 2.0  # seconds to the first: a shorter stage has its summary only
LIVE_EVERY = 0.1
LOGGED_EVERY = 60.0  # seconds between lines of a stage in a log
WINDOW = 15.0  # seconds that the rate looks back


@dataclass
class StageLine:
    """One stage's line. Update it with cumulative numbers; what the line shows follows from them.

    Rates and the time left are of what this process did: say by :meth:`resumed` what others did before.

    Args:
        progress: whose output this writes to.
        name: first word of the line.
        total: number of ``unit`` to do; None if unknown.
        unit: what is counted.
        done: how many were done before (a resumed run).
    """

    progress: "Progress"
    name: str
    total: int | None
    unit: str
    done: int
    _tokens: int = 0
    _facts: dict[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._first, self._began = self.done, time.monotonic()
        self._shown = self._began + self.progress.first - self.progress.every
        self._logged = self._began
        self._history: deque[tuple[float, int, int]] = deque([(self._began, self.done, 0)])

    def resumed(self, done: int, tokens: int = 0) -> None:
        """Says where the work goes on: so much was done and processed before, by whomever."""
        self.done = self._first = done
        self._history = deque([(time.monotonic(), done, tokens)])

    def update(self, done: int, *, tokens: int = 0, **facts: float | str) -> None:
        """Says how far the stage is.

        Args:
            done: units done so far.
            tokens: tokens processed so far, of whatever kind the rate should show.
            facts: more to show, for example ``loss=1.23``.
        """
        now = time.monotonic()
        self.done, self._tokens = done, tokens
        self._facts |= facts
        self._history.append((now, done, tokens))
        while len(self._history) > 2 and now - self._history[1][0] > WINDOW:
            self._history.popleft()
        if now - self._shown >= self.progress.every:
            self._shown = now
            self.progress.show(self.line(), self.done / self.total if self.total else None)
        if now - self._logged >= LOGGED_EVERY:
            self._logged = now
            note(self.line())

    def line(self) -> str:
        """The line as it stands: name, count, first fact, tokens/s, ETA, other facts."""
        count = f"{self.done}/{self.total}" if self.total else str(self.done)
        parts = [f"{self.unit} {count}"]
        facts = [f"{key} {_short(value)}" for key, value in self._facts.items()]
        parts += facts[:1]
        then, done, tokens = self._history[0]
        seconds = time.monotonic() - then
        if self._tokens > tokens and seconds > 0:
            parts.append(f"{(self._tokens - tokens) / seconds:,.0f} tokens/s")
        if self.total and self.done > done and self.done < self.total:
            left = (self.total - self.done) * seconds / (self.done - done)
            parts.append(f"{duration(left)} left")
        # last, because a narrow terminal cuts them off
        return f"{self.name}: {', '.join(parts + facts[1:])}"

    def summary(self) -> str:
        """The line that stays when the stage is done."""
        facts = "".join(f", {key} {_short(value)}" for key, value in self._facts.items())
        work = f"{self.done - self._first} {self.unit}{'' if self.done == 1 else 's'}"
        if self._first:
            work += f" (after {self._first} before)"
        return f"{self.name}: {work} in {duration(time.monotonic() - self._began)}{facts}"


class Progress:
    """Where stages report to.

    Args:
        quiet: show nothing but warnings (``--json``, ``--quiet``).
        stream: where to write; standard error by default.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._console = Console(
            file=stream or unguarded(sys.stderr), highlight=False, soft_wrap=True
        )
        self._live: Live | None = None
        self._bar: Bar | None = None
        self._in_notebook = stream is None and in_notebook()
        self._on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self.moving = self._on_terminal or self._in_notebook
        """Whether a line can be replaced: what only counts is then worth one."""
        plain = PLAIN_FIRST, PLAIN_EVERY
        self.first, self.every = (0.0, LIVE_EVERY) if self.moving else plain

    @contextlib.contextmanager
    def stage(
        self, name: str, total: int | None = None, *, unit: str = "step", done: int = 0
    ) -> Iterator[StageLine]:
        """Shows one stage's line while the block runs, and a summary when it ends well."""
        stage = StageLine(self, name, total, unit, done)
        with contextlib.ExitStack() as stack:
            # a stage may start inside another: the outer line rests meanwhile
            if self._on_terminal and not self._quiet and self._live is None:
                live = Live(console=self._console, transient=True, auto_refresh=False)
                self._live = stack.enter_context(live)
                stack.callback(setattr, self, "_live", None)
                self.show(stage.line())
            if self._in_notebook and not self._quiet and self._bar is None:
                self._bar = Bar()
                stack.callback(setattr, self, "_bar", None)
                self.show(stage.line(), None)
            yield stage
            note(stage.summary())
            if self._bar is not None and not self._quiet:
                self._bar.show(printable(stage.summary()), 1.0)
                return
        if not self._quiet:
            self._console.print(Text(printable(stage.summary())))

    def say(self, text: str) -> None:
        """A line that stays, unless quiet."""
        note(text)
        if not self._quiet:
            self._console.print(Text(printable(text)))

    def warn(self, text: str) -> None:
        """A warning: always shown."""
        note(f"warning: {text}")
        self._console.print(Text(f"warning: {printable(text)}"))

    def show(self, line: str, share: float | None = None) -> None:
        """Replaces the live line or the bar (``share`` of it is done), or prints a plain line."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.show(printable(line), share)
        elif self._live is not None:
            self._live.update(
                Text(printable(line), no_wrap=True, overflow="ellipsis"), refresh=True
            )
        elif not self._on_terminal:
            self._console.print(Text(printable(line)))


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 42 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
