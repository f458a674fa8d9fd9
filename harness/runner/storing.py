"""Teacher stores: what a teacher gives at rows that are known before training, computed once and shared.

In the cache, ``teacher-store/<id>/`` holds the shards of one collection of rows (`kdbench.trainers.store`)
and ``teacher-heads/<id>/`` the head that reads them. Whoever needs shards that are not there computes them,
under the folder's lock and on all ranks, before the student is loaded; then the teacher goes, and training
reads.
"""

import gc
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from kdbench.harness.errors import Damaged, InputError
from kdbench.harness.files.cleaning import HOLDS, size_of
from kdbench.harness.files.folders import build_once
from kdbench.harness.files.locks import WAIT
from kdbench.harness.files.store import write_text
from kdbench.harness.identity import identity, model_id, store_id
from kdbench.harness.runner.disk import check_store
from kdbench.harness.runner.models import Located
from kdbench.harness.runner.prepare import Prepared
from kdbench.harness.runner.training import Job, parts_of
from kdbench.harness.session import Session
from kdbench.trainers.assemble import Parts, decoding_of, engine_of, layout_of, teacher_answers
from kdbench.trainers.devices import sampling_dtype
from kdbench.trainers.engine import Engine, Services
from kdbench.trainers.head.head import Head, head_of, width_of
from kdbench.trainers.method import Method, Responses, indices_of
from kdbench.trainers.models import load_model, moved, shell_of
from kdbench.trainers.store.settings import NONE, bytes_of, exact, likeliest
from kdbench.trainers.store.shelf import ROWS, Shelf
from kdbench.trainers.store.states import (
    Captor,
    StoredStates,
    known_head,
    read_head,
    write_head,
)
from kdbench.trainers.teacher import TeacherSide, element_size
from kdbench.trainers.types import Answer, Decoding, Prompt, Sequence

AT_ONCE = 8
"""Chunks of answers that are sampled before they are written down."""


class Models(NamedTuple):
    """The pair as a training finds it."""

    teacher: Located
    student: Located


def readable(session: Session, method: Method, *, alike: bool) -> tuple[Responses, ...]:
    """Whose responses a run can read of a store; none where it is to have its teacher in memory.

    Raises:
        InputError: the store cannot serve this run at all.
    """
    kind = session.config.teacher.store
    found = method.reads() if kind != NONE else ()
    name = session.config.method.name
    if kind != NONE and not found and not exact(kind):
        raise InputError(
            f"method {name} asks its teacher about nothing that is known before training, so it can read no "
            f"store, and teacher.store={kind} would only name its run; leave that out"
        )
    if found and likeliest(kind) and not method.partial:
        raise InputError(
            f"method {name} weighs what its teacher hardly ever says, which a store of its likeliest tokens "
            "does not hold (docs/teacher-store.md says how far gradients are off); use "
            "teacher.store=hidden"
        )
    if found and not alike:
        raise InputError(
            "a teacher store needs one tokenizer for teacher and student; train this pair with the teacher "
            "in memory: teacher.store=none"
        )
    card = method.card
    if kind != NONE and not found and (card.teacher_logits or card.teacher_samples):
        session.progress.say(
            f"note: method {name} asks its teacher about what is not known before training: the teacher is "
            f"in memory, and teacher.store={kind} changes nothing"
        )
    return found


def filled(
    session: Session,
    prepared: Prepared,
    job: Job,
    models: Models,
    kinds: Iterable[Responses],
    *,
    every: bool = False,
) -> Job:
    """The training with a teacher that is read from disk; what is not there yet is computed first.

    Args:
        session: the command.
        prepared: its run.
        job: the training as it is with the teacher in memory.
        models: the pair.
        kinds: whose responses are read.
        every: all rows, not only those that this training reads.

    Raises:
        InputError: the disk is too small, or the teacher's head cannot be taken apart from it.
    """
    began = time.perf_counter()
    dtype = sampling_dtype(job.training.precision)
    shell = shell_of(models.teacher.ref, dtype=dtype)
    student = shell_of(models.student.ref, dtype=torch.float32)
    parts = parts_of(session, job, student, shell)
    live = _Live(session, parts, models.teacher.ref, dtype)
    if (known := likeliest(session.config.teacher.store)) > parts.vocabulary.size:
        raise InputError(
            f"teacher.store=top-{known} keeps more tokens than teacher and student share "
            f"({parts.vocabulary.size}); keep fewer"
        )
    wanted = [_wanted(session, prepared, parts, live, kind, models, every) for kind in kinds]
    element = element_size(dtype, session.device.type)
    kept = _head_folder(session, job, models.teacher).is_dir()
    beside = 0 if known or kept else shell.get_output_embeddings().weight.numel() * element
    position = bytes_of(session.config.teacher.store, width_of(shell), element)
    written = sum([_fill(session, want, live, position, beside) for want in wanted])
    head = _head(session, job, models.teacher, live, parts)
    live.drop()
    shelves = [want.shelf for want in wanted]
    record = _record(session.config.teacher.store, wanted, position)
    if written:
        record["captured"] = {"shards": written, "wall_s": round(time.perf_counter() - began, 1)}
    return replace(
        job,
        teacher=partial(_shell, models.teacher.ref),
        stored=StoredStates(
            shelves,
            head,
            f"method {session.config.method.name}",
            [frozenset(want.shards) for want in wanted],
        ),
        stored_as=record,
    )


def _shell(ref: str, dtype: torch.dtype) -> PreTrainedModel:
    return shell_of(ref, dtype=dtype)


def _head(session: Session, job: Job, teacher: Located, live: "_Live", parts: Parts) -> Head:
    """What reads the store: the teacher's head, which is kept beside it."""
    kind = session.config.teacher.store
    if likeliest(kind):
        return known_head(kind, parts.vocabulary.size)
    folder = _head_folder(session, job, teacher)
    if not session.of_main(folder.is_dir):
        live.apart()
    say = session.progress.say
    session.of_main(lambda: build_once(folder, lambda n: write_head(live.side.head, n), say=say))
    return read_head(folder, session.device)


def _head_folder(session: Session, job: Job, teacher: Located) -> Path:
    name = identity({"head": model_id(teacher.card), "precision": job.training.precision})
    return session.cached("teacher-heads", name)


def _record(kind: str, wanted: list["_Wanted"], position: int) -> dict[str, Any]:
    """What a run says of the store that it reads."""
    return {
        "kind": kind,
        "exact": exact(kind),
        "stores": [want.shelf.store for want in wanted],
        "rows": sum(len(want.shelf.rows_of(n)) for want in wanted for n in want.shards),
        "positions": sum(want.positions for want in wanted),
        "planned_bytes": sum(want.positions for want in wanted) * position,
        "bytes": sum(size_of(want.shelf.file(n)) for want in wanted for n in want.shards),
    }


# -- what is wanted -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Shards of one collection of rows."""

    shelf: Shelf
    shards: list[int]
    what: str

    @property
    def positions(self) -> int:
        """Targets of all."""
        return sum(self.shelf.positions(n) for n in self.shards)


def _wanted(
    session: Session,
    prepared: Prepared,
    parts: Parts,
    live: "_Live",
    kind: Responses,
    models: Models,
    every: bool,
) -> _Wanted:
    """What is to be on disk of one kind of responses; the teacher's are sampled if they are not there."""
    rows = parts.train if kind == "data" else parts.prompts or parts.train
    ahead = 1 if kind == "data" else max(1, parts.decode_chunk // parts.recipe.batch_size)
    shards = sorted({i // ROWS for i in _rows_read(parts, len(rows), ahead, every)})
    what = session.config.data.train
    answers = ""
    if kind != "data":
        rows = _answered(session, parts, live, shards, greedy=kind == "teacher-greedy")
        answers = f"{parts.answers.parent.name}/{kind}"
        what = f"the answers of {models.teacher.card.name} to {what}"
    name = store_id(
        session.config,
        prepared.contents,
        models.teacher.card,
        prepared.base.card.tokenizer,
        answers,
    )
    folder = session.cached("teacher-store", name)
    return _Wanted(Shelf(folder, name, rows), shards, what)


def _rows_read(parts: Parts, count: int, ahead: int, every: bool) -> Iterable[int]:
    """Rows that a training reads, by their place among ``count``; all where its steps are not known.

    ``ahead``: steps whose rows are asked for together.
    """
    recipe = parts.recipe
    steps = recipe.steps_of(len(parts.train))
    if every or steps is None or steps * recipe.batch_size >= 2 * count:
        return range(count)
    steps = -(-steps // ahead) * ahead
    order = partial(indices_of, size=recipe.batch_size, n=count, seed=recipe.seed)
    return (i for step in range(steps) for i in order(step))


def _answered(
    session: Session, parts: Parts, live: "_Live", shards: list[int], *, greedy: bool
) -> list[Sequence]:
    """Prompts with the teacher's answers, where these are wanted; the others without one."""
    prompts = parts.prompts or parts.train
    rows = [Sequence(s.prompt, (), s.key) for s in prompts]
    taught = teacher_answers(parts, live.ask, greedy=greedy)
    wanted = [i for n in shards for i in range(n * ROWS, min((n + 1) * ROWS, len(rows)))]
    size = AT_ONCE * parts.decode_chunk
    with session.progress.stage("teacher answers", len(wanted), unit="prompt") as line:
        for begin in range(0, len(wanted), size):
            some = wanted[begin : begin + size]
            for index, answered in zip(some, taught.pick(some), strict=True):
                rows[index] = answered
            line.update(begin + len(some))
    return rows


# -- filling --------------------------------------------------------------------------------------


@dataclass
class _Live:
    """The teacher in memory, loaded when it is first needed."""

    session: Session
    parts: Parts
    ref: str
    dtype: torch.dtype
    loaded: bool = field(default=False, init=False)

    @cached_property
    def side(self) -> TeacherSide:
        """With its whole head."""
        model = moved(load_model(self.ref, dtype=self.dtype), device=self.session.device)
        self.loaded = True
        return TeacherSide(model, head_of(model, model.get_output_embeddings().weight.shape[0]))

    def apart(self) -> TeacherSide:
        """The same.

        Raises:
            InputError: its logits are not its head applied to its hidden states.
        """
        if self.side.head.dense:
            kind = type(self.side.model).__name__
            raise InputError(
                f"the logits of {kind} are not its head applied to its hidden states, so no store of these "
                "can stand for it; train with the teacher in memory: teacher.store=none"
            )
        return self.side

    @cached_property
    def captor(self) -> Captor:
        """What fills shelves with it."""
        side = self.apart()
        return Captor(
            side=side,
            layout=layout_of(self.parts, [side.model]),
            micro_tokens=self.parts.recipe.micro_tokens,
            kind=self.session.config.teacher.store,
            vocab=self.parts.vocabulary.size,
        )

    @cached_property
    def engine(self) -> Engine:
        """It as it answers."""
        model = self.side.model
        local = engine_of(self.parts, model, layout_of(self.parts, [model]))
        return decoding_of(self.parts, local, changes=False)

    def ask(self, prompts: list[Prompt], decoding: Decoding) -> list[Answer]:
        """Its answers, dealt to ranks."""
        services = Services(
            student=self.engine,
            teacher=self.engine,
            accelerator=self.parts.accelerator,
            meter=Counter(),
        )
        return services.answer(prompts, decoding, model="teacher")

    def drop(self) -> None:
        """Frees its memory."""
        if self.loaded:
            self.__dict__.pop("captor", None)
            self.__dict__.pop("engine", None)
            self.__dict__.pop("side", None)
            gc.collect()
            if self.session.device.type == "cuda":
                torch.cuda.empty_cache()


def _fill(session: Session, want: _Wanted, live: _Live, position: int, beside: int) -> int:
    """Computes shards that are not there, each rank its share; returns how many.

    ``position`` is in bytes, and so is ``beside``, what is to be written besides.
    """
    shelf, folder = want.shelf, want.shelf.folder
    missing = session.of_main(lambda: _missing(shelf, want.shards))
    lacking = sum(shelf.positions(n) for n in missing) * position
    session.progress.say(_planned(session, want, position, lacking, folder))
    if not missing:
        return 0
    session.of_main(lambda: check_store(folder, lacking + beside))
    with session.writing(folder, wait=WAIT):
        say = session.progress.say
        # another process may have filled it meanwhile; what is damaged is made again
        missing = session.of_main(lambda: [n for n in want.shards if not shelf.ready(n, say)])
        if session.is_main and missing:
            write_text(folder / HOLDS, f"{session.config.teacher.store} of {want.what}\n")
        accelerator = session.accelerator(session.config.train)
        mine = missing[accelerator.process_index :: accelerator.num_processes]
        with session.progress.stage("teacher store", len(missing), unit="shard") as line:
            for done, number in enumerate(mine, start=1):
                with accelerator.autocast():
                    tensors = live.captor.tensors(shelf.rows_of(number))
                shelf.write(number, tensors)
                line.update(min(len(missing), done * accelerator.num_processes))
    return len(missing)


def _missing(shelf: Shelf, shards: list[int]) -> list[int]:
    """Shards that are not there or not whole; nothing is said or changed, for others may be writing."""
    found = []
    for number in shards:
        try:
            if not shelf.ready(number):
                found.append(number)
        except Damaged:  # whoever holds the lock says so and makes it again
            found.append(number)
    return found


def _planned(session: Session, want: _Wanted, position: int, lacking: int, folder: Path) -> str:
    rows = sum(len(want.shelf.rows_of(n)) for n in want.shards)
    size = want.positions * position
    kind = session.config.teacher.store
    there = "all there" if not lacking else f"{_gib(lacking)} still to write"
    return (
        f"teacher store ({kind}): {rows:,} rows, {want.positions:,} positions of {position:,} bytes, "
        f"{_gib(size)}, {there}, in {folder}"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
