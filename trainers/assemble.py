"""A training put together from its parts: the one place where loop, models and services are wired."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.errors import InputError
from kdbench.harness.files.store import Say, to_stderr
from kdbench.harness.settings import EngineName
from kdbench.trainers.batching import Layout, is_packable
from kdbench.trainers.by_sequence import may_go_by_sequence
from kdbench.trainers.devices import sampling_dtype
from kdbench.trainers.engine import Engine, LoadedModel, Services, Writer, mean_nll
from kdbench.trainers.head.head import head_of, refuse_dense, width_of
from kdbench.trainers.loop import Evaluator, Loop
from kdbench.trainers.lora.adapters import Base, adapt
from kdbench.trainers.lora.merging import Adapted
from kdbench.trainers.method import Context, Method
from kdbench.trainers.micro_batch import StudentModule
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.optim import Recipe
from kdbench.trainers.outline import Whole
from kdbench.trainers.parallel.loading import Unread
from kdbench.trainers.parallel.recompute import compute_again
from kdbench.trainers.parallel.settings import Parallel
from kdbench.trainers.parallel.sharding import share, shared_engine, tried
from kdbench.trainers.sampler.llama import is_plain_llama
from kdbench.trainers.sources import TeacherAnswers, as_prompts
from kdbench.trainers.store.states import StoredStates
from kdbench.trainers.teacher import TeacherMemory, TeacherSide, frozen_copy, teacher_side
from kdbench.trainers.types import Answer, Decoding, Prompt, Sequence
from kdbench.trainers.vllm.engine import VllmEngine

DEV_SEED = 10
SAMPLING_SEED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a training is made of.

    Attributes:
        recipe: budget, rates, limits, precision (resolved).
        method: fresh instance.
        student: model to train, float32; with adapters, in the precision that it runs in.
        base: what adapters are merged into at the end; None: the student as it is given.
        teacher: frozen, in the precision it runs in; or None.
        unread: which of the two have no values yet, for they are read once they are shared.
        stored: what it gives, if that is read from disk; ``teacher`` then has shapes and no values.
        vocabulary: the student's.
        teacher_vocab: real tokens of a teacher with a tokenizer of its own; None: the student's.
        twin: a sequence in that tokenizer.
        tokenizer: saved with the student.
        train, text: training examples and plain text as token ids.
        prompts: prompts that teacher and student are asked, without responses; none: those of train.
        dev: development examples, or none.
        dev_score: mean score of one answer to each of them, for ``select: max:dev_rouge_l``.
        answers: file in which teacher answers to the training prompts are shared.
        say: told of those that were damaged.
        ask: gives answers of a teacher that is elsewhere, to prompts at a temperature, the same on every
            rank; None: ``teacher`` samples them.
        engine: who decodes: our sampler, or vLLM.
        compared: told what was found when vLLM's first answers were compared with ours.
        decode_rows, decode_chunk: see `kdbench.trainers.engine.LoadedModel`.
        out: folder of the training; see `kdbench.trainers.loop`.
        accelerator: device, mixed precision and ranks.
        parallel: what each of several processes holds.
        packed, tile: how to lay out rows and heads; None: as fits the models.
    """

    recipe: Recipe
    method: Method
    student: PreTrainedModel
    base: Base | None = None
    teacher: PreTrainedModel | None
    unread: Seq[Unread] = ()
    stored: StoredStates | None = None
    vocabulary: Vocabulary
    teacher_vocab: int | None = None
    twin: Callable[[Sequence], Sequence] | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    train: Seq[Sequence]
    text: Seq[Sequence]
    prompts: Seq[Sequence] = ()
    dev: Seq[Sequence] = ()
    dev_score: Callable[[list[Answer]], float] | None = None
    answers: Path
    say: Say = to_stderr
    ask: Callable[[list[Prompt], float], list[Answer]] | None = None
    engine: EngineName = "own"
    compared: Say = to_stderr
    decode_rows: int
    decode_chunk: int
    out: Path
    accelerator: Accelerator
    parallel: Parallel = field(default_factory=Parallel)
    packed: bool | None = None
    tile: int | None = None


def assemble(parts: Parts) -> Loop:
    """A training ready to run.

    Raises:
        InputError: the accelerator may shard models, or adapters do not fit the student.
    """
    recipe, device = parts.recipe, parts.accelerator.device
    parts, adapted = _placed(parts)
    student, teacher = parts.student, parts.teacher
    module = StudentModule(student, parts.vocabulary.size, _extra(parts), parts.tile)
    outlines = share(
        module if _shares_student(parts) else None,
        teacher if _shares_teacher(parts) else None,
        parts.unread,
        device,
        again=parts.parallel.checkpoint_activations,
    )
    if outlines.student is not None:
        tried(module, device, None if parts.packed is not None else _ids(parts))
    elif parts.parallel.checkpoint_activations:
        compute_again(student)
    models = [m for m in (student, teacher) if m is not None and (m is student or not parts.stored)]
    if type(parts.method).parameters is not Method.parameters:
        refuse_dense(parts.method.card.title, *models)
    layout = layout_of(parts, models)
    taught = None if teacher is None else _teacher(parts, teacher, layout, outlines.teacher)
    module.side = taught and taught.side
    decoded = sampling_dtype(recipe.sample_precision)
    merged = partial(adapted.plain.lasting, decoded) if adapted else None
    local = engine_of(
        parts,
        student,
        layout,
        # the quick decoder reads adapters with their layers' weights; what others do with them is slow
        writer=merged if not is_plain_llama(student) else None,
    )
    copied: Callable[..., TeacherSide] = partial(frozen_copy, student, module.vocab)
    if outlines.student is not None:
        local, copied = shared_engine(module, outlines.student, local, merged)
    engine = decoding_of(parts, local, changes=True, writer=merged)
    return Loop(
        recipe=recipe,
        method=parts.method,
        ctx=_context(parts, local, engine, taught, copied),
        module=module,
        tokenizer=parts.tokenizer,
        layout=layout,
        evaluator=_evaluator(parts, engine) if parts.dev else None,
        out=parts.out,
        accelerator=parts.accelerator,
        adapted=adapted,
        parallel=parts.parallel,
    )


def _placed(parts: Parts) -> tuple[Parts, Adapted | None]:
    """The parts with models where they run, but for what is shared, which goes there later; and adapters."""
    student, teacher, recipe, adapted = parts.student, parts.teacher, parts.recipe, None
    place = None if _shares_student(parts) else parts.accelerator.device
    if recipe.precision == "fp64":
        student = student.double()
    if recipe.lora is not None:
        adapted = adapt(student, recipe.lora, seed=recipe.seed, device=place, base=parts.base)
    elif place is not None:
        student = student.to(place)
    if teacher is not None and parts.stored is None and not _shares_teacher(parts):
        teacher = teacher.to(parts.accelerator.device)
    return replace(parts, student=student, teacher=teacher), adapted


def _shares_teacher(parts: Parts) -> bool:
    asked = parts.parallel.teacher == "sharded" and parts.stored is None
    return asked and parts.accelerator.num_processes > 1


def _shares_student(parts: Parts) -> bool:
    return parts.accelerator.num_processes > 1 and parts.parallel.shard == "fsdp2"


class _Taught(NamedTuple):
    """The teacher as it is asked, and of a shared one how it becomes whole."""

    side: TeacherSide
    outline: Whole | None = None


def _teacher(
    parts: Parts, teacher: PreTrainedModel, layout: Layout, outline: Whole | None
) -> _Taught:
    vocab, alike = parts.teacher_vocab or parts.vocabulary.size, parts.teacher_vocab is None
    if parts.stored is not None:
        head = replace(parts.stored.head, vocab=vocab)
        return _Taught(TeacherSide(teacher, head, parts.stored))
    head = head_of(teacher, vocab)
    if outline is None:
        return _Taught(teacher_side(teacher, head, layout, parts.recipe, alike=alike))
    # no memory: what it spares one process another would wait for
    return _Taught(TeacherSide(teacher, head), outline)


def layout_of(parts: Parts, models: Iterable[PreTrainedModel]) -> Layout:
    """How sequences become rows that all of these models can read."""
    packed, device = parts.packed, parts.accelerator.device
    if packed is None:
        # each is tried, on all processes alike
        found = [is_packable(model, _ids(parts)) for model in models]
        packed = all(found)
    # on a CPU rows cost nothing by being long where attention goes by sequence, so one row
    apart = device.type == "cpu" and all(map(may_go_by_sequence, models))
    row = parts.recipe.micro_tokens if apart else parts.recipe.max_length
    pad_id = parts.vocabulary.pad_id
    return Layout(row=row, pad_id=pad_id, packed=packed, device=device, tile=parts.tile)


def _ids(parts: Parts) -> int:
    """Tokens that both models have."""
    return min(parts.vocabulary.size, parts.teacher_vocab or parts.vocabulary.size)


def _extra(parts: Parts) -> dict[str, torch.nn.Module]:
    """The method's own modules, initialised from the training's seed, in the precision that is trained."""
    student, teacher = parts.student, parts.teacher
    widths = [width_of(m) if m else 0 for m in (student, teacher)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(parts.recipe.seed)
        made = parts.method.parameters(*widths)
    dtype = torch.promote_types(student.dtype, torch.float32)  # a frozen base may be bfloat16
    place = "cpu" if student.device.type == "meta" else student.device
    return {name: module.to(place, dtype) for name, module in made.items()}


def _teacher_engine(parts: Parts, local: LoadedModel, taught: _Taught) -> Engine | None:
    """The teacher as it answers and scores, where it can be asked in the student's tokens."""
    if parts.teacher_vocab is not None or parts.stored is not None:
        return None
    side, outline = taught
    beside = replace(
        local,
        model=side.model,
        read=side.hidden,
        writer=None if outline is None else partial(outline.lasting, local.sampling_dtype),
        inside=None,
        in_step=outline is not None,
    )
    return decoding_of(parts, beside, changes=False)


def _context(
    parts: Parts,
    local: LoadedModel,
    engine: Engine,
    taught: _Taught | None,
    copied: Callable[..., TeacherSide],
) -> Context:
    recipe, accelerator = parts.recipe, parts.accelerator
    side = taught and taught.side
    teacher = None if taught is None else _teacher_engine(parts, local, taught)
    meter: Counter[str] = Counter()
    services = Services(student=engine, teacher=teacher, accelerator=accelerator, meter=meter)
    decoding = Decoding(max_new_tokens=recipe.max_response)
    prompts = parts.prompts or parts.train

    def ask_teacher(prompts: list[Prompt], decoding: Decoding) -> list[Answer]:
        """Not booked: `pick` books the answers that a run needs, whichever run made them."""
        if parts.stored is not None:
            raise InputError(
                f"{parts.answers.parent} lacks answers of the teacher that were there when training began; "
                "start the same command again: they are sampled first"
            )
        if parts.ask is not None:
            return parts.ask(prompts, decoding.temperature)
        return replace(services, meter=Counter()).answer(prompts, decoding, model="teacher")

    answers = {g: teacher_answers(parts, ask_teacher, greedy=g) for g in (False, True)}
    seen: set[int] = set()

    def pick(indices: Iterable[int], *, greedy: bool = False) -> list[Sequence]:
        """The teacher's answers; each is booked when a run first needs it, greedy ones apart."""
        wanted = list(indices)
        found = answers[greedy].pick(wanted)
        books = [i + greedy * len(prompts) for i in wanted]
        new = {i: len(s.response) for i, s in zip(books, found, strict=True) if i not in seen}
        meter["teacher_answers"] += sum(new.values())
        seen.update(new)
        return found

    ctx = Context(
        train=parts.train,
        prompts=prompts,
        text=parts.text,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        decoding=decoding,
        answer=services.answer,
        teacher_answers=pick,
        score=services.score,
        copy_student=copied,
        lookahead=max(1, engine.chunk // recipe.batch_size),
        meter=meter,
        taught=seen,
        twin=parts.twin,
    )
    if side is not None and isinstance(side.memory, TeacherMemory):
        ctx.keep = side.memory.keep
        if accelerator.num_processes == 1:
            _announce(ctx)
    return ctx


def teacher_answers(
    parts: Parts, ask: Callable[[list[Prompt], Decoding], list[Answer]], *, greedy: bool
) -> TeacherAnswers:
    """The shared answers of the teacher to the prompts of a training; ``ask`` samples those that lack."""
    decoding = Decoding(
        max_new_tokens=parts.recipe.max_response,
        seed=SAMPLING_SEED,
        temperature=0.0 if greedy else 1.0,
    )
    return TeacherAnswers(
        parts.prompts or parts.train,
        parts.answers.with_name(f"{'greedy' if greedy else parts.answers.stem}.jsonl"),
        lambda prompts: ask(prompts, decoding),
        writes=parts.accelerator.is_main_process,
        say=parts.say,
    )


def engine_of(parts: Parts, model: PreTrainedModel, layout: Layout, **more: Any) -> LoadedModel:
    """A model of a training as it answers and scores there."""
    return LoadedModel(
        model=model,
        vocabulary=parts.vocabulary,
        batch_size=parts.decode_rows,
        chunk=parts.decode_chunk,
        sampling_dtype=sampling_dtype(parts.recipe.sample_precision),
        layout=layout,
        micro_tokens=parts.recipe.micro_tokens,
        autocast=parts.accelerator.autocast,
        **more,
    )


def decoding_of(
    parts: Parts, local: LoadedModel, *, changes: bool, writer: Writer = None
) -> Engine:
    """The model as it answers: itself, or beside vLLM. ``changes``: whether it is being trained."""
    if parts.engine == "own":
        return local
    return VllmEngine(local, changes=changes, say=parts.compared, writer=writer)


def _announce(ctx: Context) -> None:
    """Announces training and plain-text rows to the teacher's memory.

    Each block is a batch of the first epoch, so that epoch costs what it would cost anyway, and
    nothing is computed that is not needed. That holds for one process; of several, each would have
    to compute the rows of all, so there they are not announced.
    """
    for name, rows, batch in (
        ("train", ctx.train, ctx.batch),
        ("text", ctx.text, ctx.text_batch),
    ):
        ctx.keep(name, [batch(step) for step in range(math.ceil(len(rows) / ctx.batch_size))])


def _evaluator(parts: Parts, engine: Engine) -> Evaluator:
    """Validation as the papers do it: mean token loss, and the score of one sampled answer.

    Every rank reads and answers its share; the numbers are the same on each.
    """
    services = Services(
        student=engine, teacher=None, accelerator=parts.accelerator, meter=Counter()
    )

    def evaluate(step: int) -> dict[str, float]:
        metrics = {"dev_loss": mean_nll(services.logprobs(engine, parts.dev))}
        if parts.recipe.select == "max:dev_rouge_l":
            assert parts.dev_score is not None, "a selection by score needs one"
            decoding = Decoding(max_new_tokens=parts.recipe.max_response, seed=DEV_SEED)
            answers = services.answer(as_prompts(parts.dev), decoding)
            metrics["dev_rouge_l"] = parts.dev_score(answers)
        return metrics

    return evaluate
