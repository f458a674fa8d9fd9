"""The first stage: everything a run needs is found, checked and identified before it is begun."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

from kdbench.harness.config import DataConfig, RunConfig, TrainConfig, run_name
from kdbench.harness.contents import remember
from kdbench.harness.endpoints import place_of
from kdbench.harness.errors import Damaged, DriftError
from kdbench.harness.evaluation.names import include_folders, tasks_of
from kdbench.harness.evaluation.stock import check_room
from kdbench.harness.files.cleaning import HOLDS
from kdbench.harness.files.locks import WAIT
from kdbench.harness.files.records import DriftRecord, IdentityRecord, PrepareRecord
from kdbench.harness.files.run_folder import RunFolder, Training
from kdbench.harness.files.store import write_text
from kdbench.harness.identity import (
    VERSION,
    Contents,
    identity,
    near_runs,
    run_id,
    run_parts,
    settings_id,
    shared_id,
    training_parts,
)
from kdbench.harness.provenance import code_state
from kdbench.harness.registry import recorded_method
from kdbench.harness.runner.data import TrainingData, prepare_data
from kdbench.harness.runner.endpoint import refuse_unfit
from kdbench.harness.runner.models import (
    Located,
    base_student,
    behind_endpoint,
    check_adapters,
    locate,
    same_world,
    shared_tokenizer,
    writes_alike,
)
from kdbench.harness.runner.preflight import check_model, check_pair, say_fit
from kdbench.harness.runner.probing import room
from kdbench.harness.runner.published import take_published
from kdbench.harness.runner.rows import Rows, load_rows
from kdbench.harness.runner.training import Job, train
from kdbench.harness.session import Session
from kdbench.tasks import mini
from kdbench.tasks.mini.settings import fingerprint, teacher_training
from kdbench.trainers.checkpoint import saved
from kdbench.trainers.models import initialise, load_model, load_tokenizer, moved


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run ready to train.

    Attributes:
        run: its folder.
        identity: what its id stands for.
        settings: what all runs of its row share, as an id; ``init_settings``: of its init.
        teacher, base: models as found; ``rows`` the data as found.
        contents: of both.
        tokenizer: the student's.
        shared: how many of its ids the teacher shares; 0: it has a tokenizer of its own.
        data: the rows as tokens, if the preflight made them.
    """

    run: RunFolder
    identity: IdentityRecord
    settings: str
    init_settings: str
    teacher: Located
    base: Located
    rows: Rows
    contents: Contents
    tokenizer: PreTrainedTokenizerBase
    shared: int
    data: TrainingData | None


def prepare(session: Session) -> Prepared:
    """Finds models and data, checks that they fit, and names the run. Writes nothing in the run.

    Raises:
        InputError: anything missing or unfit, in one sentence.
    """
    config, request = session.config, session.request
    tasks_of(config.tasks)
    method = recorded_method(config.method.name, config.method.fingerprint).method
    refuse_unfit(config, method(method.Config.model_validate(config.method.options)))
    check_adapters(config)
    rows = load_rows(config, request.data_dir)
    for line in rows.told:
        session.progress.say(line)
    world = same_world(config.pair)
    data = None
    if world:
        data = check_pair(session, method, rows=rows, tokenizer=mini.build_tokenizer())
    teacher = raw_teacher(session)
    base = base_student(session, config, teacher)
    if mini.world_model(config.pair.student) is None:
        check_model(session, base, "student")
    tokenizer, shared = shared_tokenizer(config, teacher, base, method.card)
    _check_room(config, base, tokenizer)
    contents = Contents(teacher=teacher.id, student=base.id, **rows.fingerprints)
    if not world:
        data = check_pair(
            session, method, rows=rows, tokenizer=tokenizer, shared=shared, models=(teacher, base)
        )
    say_fit(session)
    parts = run_parts(config, contents)
    run = RunFolder(request.runs_dir / run_name(config, run_id(parts)))
    if session.is_main:
        files = [base.ref] if place_of(teacher.ref) else [teacher.ref, base.ref]
        remember(session.where, request.config, config, contents, files)
        if not run.begun():
            for line in near_runs(request.runs_dir, parts):
                session.progress.say(f"note: {line}")
    return Prepared(
        run=run,
        identity=IdentityRecord(version=VERSION, parts=parts),
        settings=settings_id(parts, base.recipe or base.id),
        init_settings=settings_id({**parts, "method": None, "train": None}, base.recipe or base.id),
        teacher=teacher,
        base=base,
        rows=rows,
        contents=contents,
        tokenizer=tokenizer,
        shared=shared,
        data=data,
    )


def _check_room(config: RunConfig, model: Located, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses lm-eval tasks whose answers are longer than the model's context, before it is trained."""
    folders = include_folders(config.tasks.include_path)
    for task in tasks_of(config.tasks):
        if task.kind == "lm-eval":
            from kdbench.harness.lm.answers import most_new_tokens

            wanted = most_new_tokens(task.name, folders)
            check_room(task.name, wanted, room(model, tokenizer))


def check_drift(session: Session, run: RunFolder) -> list[str]:
    """Compares code with what an unfinished run began with; returns what is accepted as changed.

    Raises:
        DriftError: something changed and ``--accept-drift`` was not given.
    """
    now = code_state().sha256
    state = run.drift.find()
    if state is None:
        run.drift.write(DriftRecord(sha256=now))
        return []
    if now != state.sha256 and now not in state.accepted:
        if not session.request.accept_drift:
            raise DriftError(
                f"kdbench's code changed since {run.path} was begun "
                f"({state.sha256[:8]} -> {now[:8]}); delete the folder to start again, or add "
                "--accept-drift to continue and record it"
            )
        state = DriftRecord(sha256=state.sha256, accepted=[*state.accepted, now])
        run.drift.write(state)
    return [f"code {sha[:12]}" for sha in state.accepted]


def check_models(session: Session, run: RunFolder, now: PrepareRecord, *, asks: bool) -> list[str]:
    """Compares init and teacher with what a training that goes on began with; returns what is accepted.

    The run's id says how a shared one is made: made again on another machine, it has other weights.

    Args:
        session: the command.
        run: whose earlier record is compared.
        now: with what the training would go on.
        asks: whether the method asks a teacher.

    Raises:
        DriftError: on every rank; one of them is another and ``--accept-drift`` was not given.
    """

    def compared() -> list[str]:
        begun = run.training.stage.marked() or saved(run.training.path / "checkpoints")
        # a damaged record is written again
        if not begun or not run.prepare.sound(session.progress.say):
            return []
        before = run.prepare.read()
        models = {"init": (before.init, now.init)}
        if asks:
            models["teacher"] = (before.teacher, now.teacher)
        changed = {
            name: f"{name} {one.fingerprint[:8]} -> {other.fingerprint[:8]}"
            for name, (one, other) in models.items()
            if one and other and one.fingerprint != other.fingerprint
        }
        if changed and not session.request.accept_drift:
            raise DriftError(
                f"the training of {run.path} began with another {' and another '.join(changed)} "
                f"({', '.join(changed.values())}): a shared one was made again, or this is another cache; "
                "set KDBENCH_CACHE to the one that holds the first, delete the folder to start again, or add "
                "--accept-drift to continue and record it"
            )
        return [*before.notes, *changed.values()]

    return session.of_main(compared)


def raw_teacher(session: Session) -> Located:
    """The teacher before fine-tuning; a generated world's comes with kdbench or is trained on first use."""
    if away := behind_endpoint(session.config):
        return away
    ref = session.config.pair.teacher
    world = mini.world_model(ref)
    if world is None:
        found = locate(ref, ref)
        check_model(session, found, "teacher")
        return found
    size, _ = world
    training = TrainConfig.model_validate(teacher_training(size))
    name = identity({"world": fingerprint(size), "training": training_parts(training)})
    out = Training(session.cached("teachers", name))
    tokenizer = mini.build_tokenizer()

    def job() -> Job:
        return Job(
            name="teacher",
            method=_sft(),
            training=training,
            student=lambda dtype: moved(
                initialise(mini.model_config("teacher", size), training.seed), dtype=dtype
            ),
            tokenizer=tokenizer,
            data=world_data(session.config, size, training, tokenizer),
            out=out,
        )

    return trained(session, ref, out, job, f"teacher of the generated world {size}")


def world_data(
    config: RunConfig, size: str, training: TrainConfig, tokenizer: PreTrainedTokenizerBase
) -> TrainingData:
    """What a world's teacher learns from: the same whatever the run that comes first asks for."""
    whole = config.model_copy(
        update={
            "pair": config.pair.model_copy(update={"template": "mini"}),
            "data": DataConfig(train=size, dev=size, dev_limit=64),
        }
    )
    return prepare_data(load_rows(whole, None), whole, training, tokenizer)


def trained(
    session: Session, name: str, out: Training, job: Callable[[], Job], holds: str
) -> Located:
    """A shared training: it comes with kdbench, or whoever comes first runs it and others wait.

    Args:
        session: the command.
        name: of the model.
        out: where it is kept.
        job: what to train.
        holds: what it is, for people who look into the cache.
    """
    if not _there(session, out):
        with session.writing(out.path, wait=WAIT):
            session.of_main(lambda: _mended(session, out, holds))
            if not _there(session, out):
                train(session, job())
    return locate(name, str(out.student))


def _mended(session: Session, out: Training, holds: str) -> None:
    """What is damaged is taken away; what comes with kdbench is put there."""
    out.heal(session.progress.say)
    write_text(out.path / HOLDS, f"{holds}\n")
    take_published(out)


def _there(session: Session, out: Training) -> bool:
    """Whether a shared training is finished, for all ranks alike."""
    return session.of_main(lambda: _usable(out))


def _usable(out: Training) -> bool:
    try:
        return out.settled()
    except Damaged:  # whoever holds the lock heals it
        return False


def _sft() -> Any:
    from kdbench.trainers.methods.sft import SFT

    return SFT(SFT.Config())


def tuned_teacher(session: Session, prepared: Prepared) -> Located:
    """The teacher as it teaches: fine-tuned on the training set if the suite says so.

    Its rows are in tokens of the student's tokenizer, whose chat template and end it learns: one that
    writes rows otherwise than its own is in its id, so that no student gets another one's teacher.
    """
    training, start = session.config.teacher_sft, prepared.teacher
    rows, tokenizer, used = prepared.rows, prepared.tokenizer, prepared.base.card.tokenizer
    more = {}
    if training is not None and used != start.card.tokenizer:
        more = {} if writes_alike(tokenizer, load_tokenizer(start.ref)) else {"tokenizer": used}
    return _shared_sft(session, "teacher", training, start, rows, tokenizer, more)


def init_student(session: Session, prepared: Prepared) -> Located:
    """The student as the method finds it: after the shared SFT init, or as it is."""
    training, rows, tokenizer = session.config.init_sft, prepared.rows, prepared.tokenizer
    return _shared_sft(session, "init", training, prepared.base, rows, tokenizer)


def _shared_sft(
    session: Session,
    label: str,
    training: TrainConfig | None,
    start: Located,
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Located:
    """A model fine-tuned on the training set, under the name it has; itself without a training.

    ``more`` is what decides it beside the model, the rows and the training.
    """
    if training is None:
        return start
    contents = Contents(teacher="", student="", **rows.fingerprints)  # only the data's count here
    name = shared_id(session.config, contents, training, start.card, **more)
    data = session.config.data.train
    holds = f"{label}: {start.card.name} after SFT on {data}, seed {training.seed}"
    out = Training(session.cached(f"{label}s", name))
    return trained(
        session,
        start.card.name,
        out,
        lambda: Job(
            name=label,
            method=_sft(),
            training=training,
            student=lambda dtype: load_model(start.ref, dtype=dtype),
            student_ref=start.ref,
            base=start.content_name,
            tokenizer=tokenizer,
            data=prepare_data(rows, session.config, training, tokenizer),
            rouge_tokenizer=session.config.tasks.rouge_tokenizer,
            out=out,
        ),
        holds,
    )
