"""Runs what a study still lacks: one process a run, retried when lost, never twice when done.

The driver keeps nothing of its own: kill it, start it again, and it reads from the run folders what
is done. A run that somebody else is writing (a worker that outlived its driver, say) is waited for.
"""

import glob
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.config import RunConfig, slug
from kdbench.harness.errors import InputError
from kdbench.harness.files.locks import lock_holder
from kdbench.harness.identity import departures, digest, training_parts
from kdbench.harness.progress import duration
from kdbench.harness.study.definition import Cell
from kdbench.harness.study.executors.worker import LOST, Executor, Handle, lost
from kdbench.harness.study.state import Place, State, state_of

POLL = 0.1
LOOK_EVERY = 1.0  # seconds between looks at the locks of runs that wait
TELL_EVERY = 60.0  # seconds between lines about runs that go on
TRIES = 3
REFUSED_WAIT = 60.0  # seconds until a scheduler that refused a run is asked again, unless one ends
LOCKED = "is being written by"  # of the sentence of `RunLocked`
UNSEEN = (
    "it ended, but this machine does not see the models, the data or the cache that its worker used; put "
    "them on a disk that both see (KDBENCH_CACHE; HF_HOME for models of the hub)"
)
"""Which run a cell is follows from what its worker noted of these files."""
STOP_WAIT = 20.0


@dataclass(slots=True)
class Work:
    """One run to be made and the cells it is for."""

    cell: Cell
    log: Path
    keys: tuple[str, ...]
    """What it shares with other runs: teacher and init."""
    tries: int = 0
    handle: Handle | None = None
    slot: int = -1
    began: float = 0.0
    read_from: dict[Path, int] = field(default_factory=dict)
    """Where this try's output begins, in each log that there was."""
    not_before: float = 0.0
    told: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that could not be made."""

    name: str
    reason: str
    log: Path


@dataclass(slots=True)
class Driver:
    """Makes runs.

    Attributes:
        place: where they are made.
        executor: who runs them.
        arguments: a cell -> the command line that makes its run.
        say: prints a line.
        keep_going: go on after a failure.
        ended: told how many runs have ended, again and again.
        results: beginnings of reasons that are what was asked for: such a failure stops nothing.
    """

    place: Place
    executor: Executor
    arguments: Callable[[Cell], list[str]]
    say: Callable[[str], None]
    keep_going: bool = False
    ended: Callable[[int], None] = lambda count: None
    results: tuple[str, ...] = ()
    failures: list[Failure] = field(default_factory=list)
    _waiting: list[Work] = field(default_factory=list)
    _running: list[Work] = field(default_factory=list)
    _made: set[str] = field(default_factory=set)
    _total: int = 0
    _times: list[float] = field(default_factory=list)
    _looked: float = 0.0
    _refused_until: float = 0.0
    _refusal: str = ""
    _outlived: dict[Path, int] = field(default_factory=dict)
    """Runs that workers of an earlier driver are making on this machine, and the places that these have."""
    _spoke: float = 0.0

    def run(self, cells: Sequence[Cell], logs: Path) -> list[Failure]:
        """Makes the runs of all cells that are not done; returns those that failed."""
        self._waiting = [Work(cell, logs / log_name(cell), shared(cell.config)) for cell in cells]
        self._total, self._spoke = len(cells), time.monotonic()
        self._outlived = self._find_outlived()
        try:
            while self._waiting or self._running:
                ended = [w for w in self._running if w.handle and w.handle.poll() is not None]
                for work in ended:
                    self._end(work)
                if not self.keep_going and self._failed():
                    break
                self._note_shared()
                started = self._start_next()
                self._tell()
                if not started and not ended:
                    time.sleep(POLL)
        finally:
            self._stop()
        return self.failures

    def _failed(self) -> bool:
        return not all(failure.reason.startswith(self.results) for failure in self.failures)

    # -- starting

    def _start_next(self) -> bool:
        """Starts one run if there is a free place and one that need not wait."""
        now = time.monotonic()
        if now < self._refused_until or (self._looked and now - self._looked < LOOK_EVERY):
            return False
        free = self._free()
        if not free:
            return False
        for work in self._waiting:
            if work.not_before > now or self._blocked(work):
                continue
            state = state_of(work.cell, self.place)
            if self._is_written(work, state):
                continue
            self._waiting.remove(work)
            # one that was lost may lack what is not in its folder: evaluations of shared references
            if state.done and not work.tries:
                self.say(f"{work.cell.name}: done by another process")
            else:
                self._start(work, min(free))
            self._looked = 0.0
            return True
        self._looked = now
        return False

    def _find_outlived(self) -> dict[Path, int]:
        found = {}
        for work in self._waiting:
            state = state_of(work.cell, self.place)
            holder = lock_holder(state.run.path) if state.run else None
            if state.run and holder and holder.is_near():
                self._is_written(work, state)
                found[state.run.path] = holder.pid
        return dict(zip(found, self.executor.slots_of(list(found.values())), strict=False))

    def _free(self) -> set[int]:
        """Places where nothing runs: no run of ours, and none whose worker outlived its driver."""
        self._outlived = {p: slot for p, slot in self._outlived.items() if lock_holder(p)}
        taken = {work.slot for work in self._running} | set(self._outlived.values())
        return set(range(self.executor.jobs)) - taken

    def _start(self, work: Work, slot: int) -> None:
        """Starts a run; one that is refused waits while others run, which may be why it is."""
        work.log.parent.mkdir(parents=True, exist_ok=True)
        work.read_from = {log: log.stat().st_size for log in logs_of(work.log)}
        try:
            work.handle = self.executor.start(self.arguments(work.cell), work.log, slot)
        except InputError as error:
            if not self._running:
                raise
            self._waiting.insert(0, work)
            self._refused_until = time.monotonic() + REFUSED_WAIT
            if str(error) != self._refusal:
                self._refusal = str(error)
                self.say(f"{work.cell.name}: {error}; it is tried again while others run")
            return
        work.tries += 1
        work.slot, work.began = slot, time.monotonic()
        self._running.append(work)
        self.say(f"{work.cell.name}: started{f' (try {work.tries})' if work.tries > 1 else ''}")

    def _blocked(self, work: Work) -> bool:
        """Whether a running one is making what it needs, or is the same run."""
        run, needed = _training(work.cell.config), set(work.keys) - self._made
        return any(
            needed & set(other.keys) or _training(other.cell.config) == run
            for other in self._running
        )

    def _is_written(self, work: Work, state: State) -> bool:
        holder = lock_holder(state.run.path) if state.run else None
        if holder is not None and not work.told:
            work.told = True
            who = f"process {holder.pid} on {holder.host}"
            self.say(f"{work.cell.name}: {who} is making it; waiting for that")
        return holder is not None

    def _note_shared(self) -> None:
        """Frees what waits for a teacher and an init once the run that makes them has them."""
        for work in self._running:
            run = None
            if not self._made.issuperset(work.keys):
                run = state_of(work.cell, self.place).run
            if run is not None and run.prepare.exists():
                self._made.update(work.keys)
                self._looked = 0.0

    # -- ending

    def _end(self, work: Work) -> None:
        code = work.handle.poll() if work.handle else None
        code = LOST if code is None else code
        self._running.remove(work)
        self._looked = self._refused_until = 0.0
        state = state_of(work.cell, self.place)
        if state.done and (code == 0 or (lost(code) and work.tries >= TRIES)):
            self._made.update(work.keys)
            self._times.append(time.monotonic() - work.began)
            self.say(f"{work.cell.name}: done in {self._took(work)} ({self._progress()})")
            return
        sentence, log = last_words(work.log, work.read_from)
        held = self._is_written(work, state)
        if lost(code) and work.tries < TRIES:
            self.say(f"{work.cell.name}: lost after {self._took(work)}; starting it again")
            self._waiting.insert(0, work)
        elif code == 2 and LOCKED in sentence and (held or work.tries < TRIES):
            work.tries -= held  # one that nobody is seen to hold is not asked for ever
            work.not_before = time.monotonic() + 2 * LOOK_EVERY
            self._waiting.insert(0, work)
        else:
            if lost(code):
                sentence = f"lost {work.tries} times, last as: {sentence}"
            elif code == 0 and state.run is None:
                sentence = UNSEEN
            elif code == 0:
                sentence = f"ended but left undone: {', '.join(state.missing) or 'everything'}"
            self.failures.append(Failure(work.cell.name, sentence, log))
            self.say(f"{work.cell.name}: failed: {sentence} (log: {log})")

    def _took(self, work: Work) -> str:
        return duration(time.monotonic() - work.began)

    def _progress(self) -> str:
        """How many are done, and about how long the others take if they are like those."""
        left = len(self._waiting) + len(self._running)
        text = f"{self._total - left - len(self.failures)} of {self._total} done"
        if self._times and left:
            mean = sum(self._times) / len(self._times)
            text += f", about {duration(mean * left / min(self.executor.jobs, left))} left"
        return text

    def _stop(self) -> None:
        """Ends what runs; all of it can be continued."""
        for work in self._running:
            if work.handle:
                work.handle.stop()
        deadline = time.monotonic() + STOP_WAIT
        while self._running and time.monotonic() < deadline:
            self._running = [w for w in self._running if w.handle and w.handle.poll() is None]
            time.sleep(POLL)
        for work in self._running:
            who = work.handle.name if work.handle else ""
            self.say(
                f"{work.cell.name}: asked to end {STOP_WAIT:.0f} s ago and still there ({who}); end it, or "
                "let it go on: the same command then waits for it"
            )
        self.executor.close()

    def _tell(self) -> None:
        """Says now and then what goes on."""
        now = time.monotonic()
        self.ended(self._total - len(self._waiting) - len(self._running))
        if now - self._spoke < TELL_EVERY:
            return
        self._spoke = now
        for work in self._running:
            words = last_words(work.log, work.read_from)
            self.say(f"{work.cell.name}: {duration(now - work.began)} so far; {words.text}")


def shared(config: RunConfig) -> tuple[str, ...]:
    """Digests of the teacher and of the init that a run needs; equal ones are made once."""
    data, tokenizer = departures(config.data), config.tasks.rouge_tokenizer
    teacher = {
        "teacher": config.pair.teacher,
        "sft": config.teacher_sft and [training_parts(config.teacher_sft, tokenizer), data],
    }
    init = {
        "student": config.pair.student,
        "seed": config.train.seed_of_init,
        "sft": config.init_sft and [training_parts(config.init_sft, tokenizer), data],
    }
    return (digest(teacher), digest([teacher, init]))


def _training(config: RunConfig) -> str:
    """Digest of what decides the run folder, by name."""
    return digest(departures(config, ("tasks", "generate", "suite", "regime", "tuning")))


def log_name(cell: Cell) -> str:
    """File name of a cell's log."""
    return f"{slug(cell.label.replace('/', '-'))}-seed{cell.seed}-{cell.key[:6]}.log"


class Words(NamedTuple):
    """What a worker said last, and the log that has it."""

    text: str
    log: Path


def logs_of(log: Path) -> list[Path]:
    """The logs of a run's nodes that there are; that of the first node has no number."""
    others = glob.glob(f"{glob.escape(str(log))}.node*")
    return [path for path in (log, *map(Path, sorted(others))) if path.is_file()]


def last_words(log: Path, read_from: Mapping[Path, int]) -> Words:
    """The last error sentence of a worker's output, else its last line.

    The process that speaks may be on any node: which one, the launcher decides by addresses. So the log
    that was written last is read first.

    Args:
        log: of the first node.
        read_from: where this try's output begins, in each log that was there before.
    """
    last: list[Words] = []
    for path in sorted(logs_of(log), key=_written, reverse=True):
        lines = _lines(path, read_from.get(path, 0))
        sentences = [
            line.removeprefix("kdbench: ") for line in lines if line.startswith("kdbench: ")
        ]
        if sentences:
            return Words(sentences[-1], path)
        last += [Words(line, path) for line in lines[-1:]]
    return (last or [Words("it printed nothing", log)])[0]


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _lines(path: Path, start: int) -> list[str]:
    """The last lines of a log that are not empty."""
    try:
        with open(path, "rb") as file:
            file.seek(max(start, path.stat().st_size - 65536))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]
