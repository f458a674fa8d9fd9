"""run, train, eval and score as lists of stages."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from kdbench.harness.config import Request
from kdbench.harness.errors import InputError
from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.records import ModelRef, RunCard, Summary
from kdbench.harness.files.store import is_done, make_folder, read_record, write_json
from kdbench.harness.progress import Progress
from kdbench.harness.provenance import combined
from kdbench.harness.registry import find_method
from kdbench.harness.runner import evaluation, summary
from kdbench.harness.runner.data import run_overlaps
from kdbench.harness.runner.models import (
    Located,
    end_tokens,
    locate,
    other_tokenizer,
    world_model,
)
from kdbench.harness.runner.prepare import (
    WAIT,
    Prepared,
    check_drift,
    init_student,
    prepare,
    prepare_record,
    raw_teacher,
    shared_identity,
    tokenised,
    tuned_teacher,
)
from kdbench.harness.runner.probing import check_probes
from kdbench.harness.runner.session import Session, open_session
from kdbench.harness.runner.task_data import check_task_data
from kdbench.harness.runner.training import Job, train, training_identity
from kdbench.trainers.models import load_model


def run_command(request: Request) -> int:
    """Trains, evaluates the student and its references, prints the comparison; returns the exit code."""
    check_probes(request.config.tasks.probes, teacher=request.config.pair.teacher)
    check_task_data(request.config, request.data_dir)
    session = open_session(request, Progress(quiet=request.quiet or request.json_output))
    prepared, folder = _trained_run(session)
    _evaluate_run(session, prepared, folder)
    references = evaluate_references(session, prepared)
    if session.is_main:
        _print_board(session, [*references, folder], folder)
    return 0


def train_command(request: Request) -> int:
    """The training stage of ``run`` on its own."""
    session = open_session(request, Progress(quiet=request.quiet or request.json_output))
    _, folder = _trained_run(session)
    if session.is_main:
        student = folder / "train" / "student"
        if request.json_output:
            print(json.dumps({"run": str(folder), "student": str(student)}))
        else:
            print(f"student: {student}")
            print(f"next: kdbench eval {shlex.quote(str(folder))} --tasks dolly,selfinst")
    return 0


def _trained_run(session: Session) -> tuple[Prepared, Path]:
    """Stages prepare and train of the configured run, under its lock."""
    prepared = prepare(session)
    folder = make_folder(prepared.folder)
    with session.writing(folder):
        # the manifest comes last: a kill just before it left a training without its summary
        whole = is_done(folder / "train", "train") and (folder / "manifest.json").is_file()
        if not session.agreed(whole):
            drift = check_drift(session, prepared)
            train_run(session, prepared, folder, drift)
    return prepared, folder


def train_run(session: Session, prepared: Prepared, folder: Path, drift: list[str]) -> None:
    """Teacher, init and student, and the first summary and manifest."""
    config = session.config
    write_json(folder / "config.json", config)
    teacher = tuned_teacher(session, prepared)
    init = init_student(session, prepared)
    data = tokenised(session, prepared, config.train)
    overlaps = run_overlaps(prepared.rows, config, session.request.data_dir)
    record = prepare_record(prepared, data, overlaps, teacher.card, init.card, config.pair.template)
    write_json(folder / "prepare.json", record)
    method = find_method(config.method.source or config.method.name).method
    needs_teacher = method.card.teacher_logits or method.card.teacher_samples
    info = train(
        session,
        Job(
            name=config.method.name,
            method=method(method.Config.model_validate(config.method.options)),
            training=config.train,
            student=lambda: load_model(init.ref),
            teacher=(lambda dtype: load_model(teacher.ref, dtype=dtype)) if needs_teacher else None,
            tokenizer=prepared.tokenizer,
            teacher_tokenizer=other_tokenizer(prepared.tokenizer, teacher),
            data=data,
            teacher_samples=_teacher_samples(session, prepared, teacher),
            out=make_folder(folder / "train"),
        ),
    )
    if not session.is_main:
        return
    if not (folder / "summary.json").is_file():
        session.cost("train", info["wall_s"], **info["tokens"])  # of all processes that trained it
    card = run_card(session, prepared, folder, teacher.card)
    summary.write_summary(session, folder, card, learned(info))
    summary.write_manifest(
        session,
        folder,
        prepared=record,
        generation={"training": {"max_new_tokens": config.train.max_response, "temperature": 1.0}},
        extra={"method_tokens": info["tokens"], "best_step": info["best_step"]},
        drift=drift,
    )


def _teacher_samples(session: Session, prepared: Prepared, teacher: Located) -> Path:
    """File of the teacher's answers to the training prompts, named by all that decides them."""
    training, generate = session.config.train, session.config.generate
    decides = {
        "data": shared_identity(session.config, prepared, None, teacher),
        "tokenizer": prepared.tokenizer_sha256,
        "ends": end_tokens(prepared.base),
        "lengths": [training.max_prompt, training.max_length],
        "precision": [training.precision, training.sample_precision],
        "company": [generate.chunk, generate.batch_size],  # decoded together; decides the last bits
    }
    return session.cached("teacher-answers", training_identity(decides)) / "answers.jsonl"


def learned(info: dict[str, object]) -> dict[str, float]:
    """Development metrics before training, at the selected step, and at the end."""
    evaluations = info["evaluations"]
    assert isinstance(evaluations, dict)
    moments = {
        "before": evaluations.get("0", {}),
        "selected": evaluations.get(str(info["best_step"]), {}),
        "last": evaluations.get(str(info["steps"]), {}),
    }
    return {f"{k}_{when}": v for when, found in moments.items() for k, v in found.items()}


def run_card(session: Session, prepared: Prepared, folder: Path, teacher: ModelRef) -> RunCard:
    """Who made the student of a run."""
    config = session.config
    method = find_method(config.method.source or config.method.name).method
    student = locate(config.pair.student, str(folder / "train" / "student"))
    return RunCard(
        id=prepared.id,
        kind="run",
        method=config.method.name,
        variant=method.card.variant,
        suite=config.suite,
        regime=config.regime,
        teacher=teacher,
        student=student.card,
        training_seed=config.train.seed,
        division="closed" if config.regime == "matched" else "open",
    )


# -- evaluation -----------------------------------------------------------------------------------


def _evaluate_run(session: Session, prepared: Prepared, folder: Path) -> None:
    student = locate(session.config.pair.student, str(folder / "train" / "student"))
    label = session.config.method.name
    exposed = "exposure" in session.config.tasks.probes
    teacher = tuned_teacher(session, prepared) if exposed else None
    _evaluate_into(session, folder, label, student, None, wait=0.0, teacher=teacher)


def _evaluate_into(
    session: Session,
    folder: Path,
    label: str,
    model: Located | None,
    card: RunCard | None,
    *,
    wait: float,
    teacher: Located | None = None,
) -> None:
    """Evaluates a model (None: the truth) and renews the folder's summary if that adds anything.

    ``card`` is that of a reference row, which has no training before it; None: a trained run's.
    """
    manifest = folder / "manifest.json"
    with session.writing(folder, wait=wait):
        if session.is_main:
            if card is not None and not (folder / "config.json").is_file():
                write_json(folder / "config.json", session.config)
            subject = (
                evaluation.truth_subject(session)
                if model is None
                else evaluation.model_subject(session, label, model)
            )
            evaluation.evaluate(session, subject, folder, teacher)
            whose = card or read_record(folder / "summary.json", Summary).run
            added = summary.write_summary(session, folder, whose, {})
            if card is not None and (added or not manifest.is_file()):
                summary.write_manifest(
                    session, folder, prepared=None, generation={}, extra={"label": label}, drift=[]
                )


def evaluate_references(session: Session, prepared: Prepared) -> list[Path]:
    """Truth, teacher, student before training and SFT init: evaluated once, shared by all runs."""
    config = session.config
    teacher = tuned_teacher(session, prepared)
    rows: list[tuple[str, Located | None]] = []
    if config.tasks.edition != "full":
        rows.append(("truth", None))
    rows.append(("teacher", teacher))
    random = Path(config.pair.student).suffix == ".json" or world_model(config.pair.student)
    if not random:  # there is nothing to see in the answers of random weights
        rows.append(("student-untrained", prepared.base))
    if config.init_sft is not None:
        rows.append(("sft-init", init_student(session, prepared)))
    return [
        evaluate_model(
            session,
            label,
            model,
            teacher.card if model is not teacher else None,
            against=teacher if model is not teacher else None,
        )
        for label, model in rows
    ]


def evaluate_model(
    session: Session,
    label: str,
    model: Located | None,
    teacher: ModelRef | None = None,
    *,
    against: Located | None = None,
) -> Path:
    """An eval-kind run folder, one for each (model fingerprint, suite).

    ``against`` is the teacher of exposure bias, if that is measured.
    """
    content = model.card.fingerprint if model else "truth"
    identifier = combined([("model", content), ("suite", session.config.suite)])[:12]
    folder = make_folder(session.request.runs_dir / f"eval-{label}-{identifier}")
    card = summary.reference_card(
        session, label, identifier, model.card if model else None, teacher
    )
    _evaluate_into(session, folder, label, model, card, wait=WAIT, teacher=against)
    return folder


def eval_command(request: Request) -> int:
    """More tasks for a run's student, or any model's evaluation."""
    check_probes(request.config.tasks.probes, teacher=request.teacher)
    check_task_data(request.config, request.data_dir)
    session = open_session(request, Progress(quiet=request.quiet or request.json_output))
    if request.run is not None:
        folder = request.run
        if not is_done(folder / "train", "train"):
            raise InputError(f"{folder} has no trained student yet; finish it with kdbench run")
        student = locate("student", str(folder / "train" / "student"))
        label = session.config.method.name
        _evaluate_into(session, folder, label, student, None, wait=0.0, teacher=_against(session))
    else:
        folder = _evaluate_named(session, request.model or "teacher")
    if session.is_main:
        _print_board(session, [folder], folder)
    return 0


def _evaluate_named(session: Session, name: str) -> Path:
    if name == "truth":
        if session.config.tasks.edition == "full":
            raise InputError("the truth is known of the mini world only; use --suite mini")
        return evaluate_model(session, "truth", None)
    label = {"teacher": "teacher", "init": "sft-init"}.get(name, Path(name).name or name)
    return evaluate_model(session, label, _named(session, name), against=_against(session))


def _named(session: Session, name: str) -> Located:
    if name == "teacher":
        if session.config.teacher_sft is not None:
            return tuned_teacher(session, prepare(session))
        return raw_teacher(session)
    if name == "init":
        return init_student(session, prepare(session))
    return locate(name, name)


def _against(session: Session) -> Located | None:
    """The teacher of exposure bias, if that was asked for."""
    if "exposure" not in session.config.tasks.probes or session.request.teacher is None:
        return None
    return _named(session, session.request.teacher)


# -- score ----------------------------------------------------------------------------------------


def score_command(paths: list[Path], *, json_output: bool = False) -> int:
    """Scores stored samples again and renews the summaries."""
    folders = list(_run_folders(paths))
    if not folders:
        raise InputError(
            f"no run folder with samples below {', '.join(map(str, paths))}; give a run folder, or "
            "make one with kdbench run"
        )
    done = []
    for folder in folders:
        with RunLock(folder):
            for out in sorted((folder / "eval").glob("*@*")):
                if is_done(out, "generate"):
                    evaluation.score(out)
                    done.append(str(out))
            summary.rescored(folder)
    if json_output:
        print(json.dumps({"scored": done}))
    else:
        print(f"scored {len(done)} evaluations of {len(folders)} runs again")
        print("next: kdbench leaderboard " + " ".join(shlex.quote(str(p)) for p in paths))
    return 0


def _run_folders(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            raise InputError(f"no folder {path}; give a run folder or a folder of runs")
        candidates = [path] if (path / "eval").is_dir() else sorted(path.iterdir())
        yield from (p for p in candidates if (p / "eval").is_dir())


def _print_board(session: Session, folders: list[Path], folder: Path) -> None:
    from kdbench.reports.board import leaderboard

    tasks = session.config.tasks.names
    if session.request.json_output:
        print(leaderboard(folders, "json", tasks=tasks))
        return
    print(leaderboard(folders, "terminal", tasks=tasks))
    print(f"folder: {folder}")
    print(f"next: kdbench leaderboard {shlex.quote(str(session.request.runs_dir))}")
