"""What runs share: the world's teacher, inits and teacher answers are the same for whoever comes."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import tiny
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from kdbench.harness.config import Request, TrainConfig
from kdbench.harness.contents import HUB_FILES, TOKENIZER_FILES, tokenizer_fingerprint
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import IdentityRecord, LeftOut, ModelRef
from kdbench.harness.files.rows import drop_lines
from kdbench.harness.files.run_folder import RunFolder, Training
from kdbench.harness.files.store import append_rows, read_rows, write_json
from kdbench.harness.identity import Contents
from kdbench.harness.progress import Progress
from kdbench.harness.resolve import resolve
from kdbench.harness.runner import prepare
from kdbench.harness.runner.jobs import teacher_samples
from kdbench.harness.runner.models import Located, base_student
from kdbench.harness.runner.prepare import Prepared, world_data
from kdbench.harness.runner.published import published, take_published
from kdbench.harness.runner.rows import Rows, load_rows
from kdbench.harness.session import Session, open_session
from kdbench.tasks import mini
from kdbench.tasks.mini.settings import teacher_training
from kdbench.trainers.models import initialise, load_tokenizer
from kdbench.trainers.sources import TeacherAnswers
from kdbench.trainers.types import Answer, Prompt, Sequence


def test_the_world_teacher_learns_the_same_whatever_the_run_asks_for() -> None:
    plain = resolve(suite="mini-test", method="sft")
    other = resolve(
        suite="mini-test",
        method="sft",
        assignments=["pair.template=alpaca", "data.boundary=joint", "data.limit=3"],
    )
    training = TrainConfig.model_validate(teacher_training("mini-test"))
    tokenizer = mini.build_tokenizer()
    made = [world_data(run, "mini-test", training, tokenizer) for run in (plain, other)]
    assert made[0] == made[1]
    assert len(made[0].train) > 100


def test_a_random_student_is_remade_for_a_teacher_with_another_tokenizer(tmp_path: Path) -> None:
    write_json(tmp_path / "student.json", tiny.config("llama").to_dict())
    session = session_of(tmp_path, f"pair.student={tmp_path / 'student.json'}")
    card = ModelRef(name="teacher", fingerprint="t", parameters=1)
    made = []
    for pad in ("<pad>", "<blank>"):
        words = {pad: 0, "<eos>": 1, "word": 2}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel(words, unk_token=pad)), eos_token="<eos>"
        )
        tokenizer.save_pretrained(tmp_path / pad)
        tokens = tokenizer_fingerprint(tmp_path / pad)
        teacher = Located(str(tmp_path / pad), card.model_copy(update={"tokenizer": tokens}))
        made += [base_student(session, session.config, teacher) for _ in range(2)]
        assert pad in load_tokenizer(made[-1].ref).get_vocab()
    assert made[0] == made[1] and made[2] == made[3]
    weights = [one.card.fingerprint for one in made]
    assert weights[0] == weights[2]  # the same weights, but not the same model
    assert made[0].id != made[2].id


def test_all_files_of_a_tokenizer_are_fetched() -> None:
    for name in TOKENIZER_FILES:
        assert any(fnmatch(name, pattern) for pattern in HUB_FILES), name


# -- teacher answers ------------------------------------------------------------------------------


def answers_file(folder: Path, *settings: str, ends: object = 2) -> Path:
    """Where a run with these settings keeps its teacher's answers."""
    write_json(folder / "base" / "generation_config.json", {"eos_token_id": ends})
    config = resolve(suite="mini-test", method="seqkd", assignments=settings)
    request = Request(config=config, runs_dir=folder, cache_dir=folder, device="cpu")
    session = open_session(request, Progress(quiet=True))
    base = Located(str(folder / "base"), ModelRef(name="base", fingerprint="b", parameters=1))
    teacher = Located("teacher", ModelRef(name="teacher", fingerprint="t", parameters=1))
    prepared = Prepared(
        run=RunFolder(folder),
        identity=IdentityRecord(version=1, parts={}),
        settings="",
        init_settings="",
        teacher=teacher,
        base=base,
        rows=Rows([], [], [], {"train": "r", "dev": "", "text": ""}),
        contents=Contents(teacher="t", student="b", train="r", dev="", text=""),
        tokenizer=mini.build_tokenizer(),
        shared=0,
        data=None,
    )
    return teacher_samples(session, prepared, teacher)


def test_answers_are_shared_by_runs_that_would_sample_the_same(tmp_path: Path) -> None:
    plain = answers_file(tmp_path)
    assert answers_file(tmp_path, "train.seed=11", "train.lr=1e-4") == plain
    others = [
        answers_file(tmp_path, "train.sample_precision=fp32"),
        answers_file(tmp_path, "generate.batch_size=3"),
        answers_file(tmp_path, "generate.chunk=8"),
        answers_file(tmp_path, "train.max_length=100"),
        answers_file(tmp_path, ends=[2, 3]),
    ]
    assert len({plain, *others}) == 6


TRAIN = [Sequence((i, 7), (2,), key=100 + i) for i in range(4)]


def sampler(token: int) -> Callable[[list[Prompt]], list[Answer]]:
    """A teacher that answers every prompt with one token."""
    return lambda prompts: [Answer((token,), True) for _ in prompts]


def responses(answers: TeacherAnswers, *indices: int) -> list[tuple[int, ...]]:
    return [s.response for s in answers.pick(indices)]


def test_the_first_answer_in_the_file_is_everybodys(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    one = TeacherAnswers(TRAIN, path, sampler(1), writes=True)
    two = TeacherAnswers(TRAIN, path, sampler(2), writes=True)
    assert responses(one, 0, 1) == [(1,), (1,)]
    assert responses(two, 1, 2) == [(1,), (2,)]  # 1 was missing when the second began
    assert responses(two, 0) == [(1,)]
    assert [row["index"] for row in read_rows(path)] == [0, 1, 2]
    append_rows(path, [{"index": 0, "key": 100, "response": [9]}])
    assert responses(TeacherAnswers(TRAIN, path, sampler(3), writes=True), 0, 3) == [(1,), (3,)]


def test_answers_of_others_are_read_before_any_is_sampled(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    one = TeacherAnswers(TRAIN, path, sampler(1), writes=True)
    two = TeacherAnswers(TRAIN, path, sampler(2), writes=True)
    responses(one, 0, 1, 2)
    assert responses(two, 2) == [(1,)]
    drop_lines(path, [1, 2, 3])  # as who heals the file: it is another one now
    append_rows(path, [{"index": 3, "key": 103, "response": [9]}], digests=True)
    assert responses(two, 3, 0) == [(9,), (1,)]


WORKER = """
import sys, torch
sys.path[:0] = sys.argv[1].split(":")
from pathlib import Path
import test_shared
from kdbench.trainers.sources import TeacherAnswers
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
# each rank sees a file of its own, as a slow network file system may show it; they must not diverge
path = Path(sys.argv[2]) / f"rank{rank}.jsonl"
asked = []
def sample(prompts):
    asked.append(len(prompts))
    everybody = [None, None]
    torch.distributed.all_gather_object(everybody, len(prompts))
    assert len(set(everybody)) == 1, everybody
    return test_shared.sampler(5)(prompts)
answers = TeacherAnswers(test_shared.TRAIN, path, sample, writes=rank == 0)
print(test_shared.responses(answers, 0, 1), test_shared.responses(answers, 1, 2), asked)
torch.distributed.destroy_process_group()
"""


def two_ranks(code: str, *arguments: object) -> list[str]:
    """What each of two processes that know of each other printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    here = Path(__file__).parent
    shared = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, "-c", code, f"{here}:{here / 'support'}", *map(str, arguments)]
    workers = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = []
    try:
        for worker in workers:
            out, errors = worker.communicate(timeout=240)
            assert worker.returncode == 0, errors[-2000:]
            said.append(out.strip())
    finally:
        for worker in workers:
            worker.kill()
    return said


@pytest.mark.parametrize("seen", [0, 1])
def test_ranks_agree_on_what_is_there(seen: int, tmp_path: Path) -> None:
    append_rows(tmp_path / f"rank{seen}.jsonl", [{"index": 0, "key": 100, "response": [4]}])
    expected = ["[(4,), (5,)] [(5,), (5,)] [1, 1]", "[(5,), (5,)] [(5,), (5,)] [2, 1]"][seen]
    assert two_ranks(WORKER, tmp_path) == [expected, expected]


# -- sessions -------------------------------------------------------------------------------------


def session_of(folder: Path, *settings: str) -> Session:
    config = resolve(suite="mini-test", method="sft", assignments=settings)
    request = Request(config=config, runs_dir=folder, cache_dir=folder, device="cpu")
    return open_session(request, Progress(quiet=True))


def test_nothing_is_written_into_a_run_that_came_in_a_bundle(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    session = session_of(tmp_path)
    with session.writing(run.path):
        run.left_out.write(LeftOut(what={}))
    with (
        pytest.raises(InputError, match=r"came in a bundle.*--runs-dir"),
        session.writing(run.path),
    ):
        pass


def in_precision(precision: str) -> TrainConfig:
    return TrainConfig.model_validate({"steps": 1, "precision": precision})


def test_trainings_of_one_command_may_differ_in_precision(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    found = []
    for precision in ("bf16", "fp32", "bf16", "fp32"):
        with session.accelerator(in_precision(precision)).autocast():
            found.append((torch.eye(2) @ torch.eye(2)).dtype)
        assert session.is_main
    assert found == [torch.bfloat16, torch.float32] * 2


def test_gradients_do_not_hang_on_what_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = session_of(tmp_path).accelerator()
    weight = torch.ones(1, requires_grad=True)
    accelerator.backward(3 * weight.sum())
    assert weight.grad is not None and weight.grad.item() == 3


RANKS = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from pathlib import Path
import test_shared
from kdbench.harness.errors import Damaged, InputError
from kdbench.harness.runner.prepare import trained
from kdbench.harness.files.run_folder import Training
from kdbench.harness.files.stages import Stage
session = test_shared.session_of(Path(sys.argv[2]))
out = Path(sys.argv[2]) / f"rank{session.accelerator().process_index}"
if session.is_main:  # the other does not see it yet
    Stage(out, "train").mark()
print(trained(session, "shared", Training(out), None, "").card.name)
def refuse():
    raise Damaged(f"rank {session.place[0]} is at its end")
print(session.of_main(lambda: session.place))
for fails in (lambda: session.of_main(refuse),
              lambda: session.accelerator(test_shared.in_precision("bf16"))):
    try:
        fails()
    except InputError as error:
        print(type(error).__name__, error)
"""


def test_ranks_agree_on_what_is_trained_and_have_one_precision(tmp_path: Path) -> None:
    for rank in range(2):
        student = tmp_path / f"rank{rank}" / "student"
        initialise(mini.model_config("student", "mini-test"), 0).save_pretrained(student)
        mini.build_tokenizer().save_pretrained(student)
    for said in two_ranks(RANKS, tmp_path):
        name, place, failed, sentence = said.splitlines()
        assert name == "shared"
        assert place == "(0, 2)"
        assert failed == "Damaged rank 0 is at its end"
        assert "has one precision" in sentence


# -- what comes with kdbench -----------------------------------------------------------------------


def test_the_default_suite_s_teacher_and_inits_come_with_kdbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "train", lambda *_: pytest.fail("it would be trained"))
    rows = load_rows(resolve(suite="mini", method="sft"), None)
    for seed in (10, 20, 30, 40, 50):
        config = resolve(suite="mini", method="sft", flags={"train.seed": seed})
        request = Request(config=config, runs_dir=tmp_path, cache_dir=tmp_path, device="cpu")
        session = open_session(request, Progress(quiet=True))
        base = base_student(session, session.config, None)
        sft, tokenizer = session.config.init_sft, load_tokenizer(base.ref)
        start = prepare._shared_sft(session, "init", sft, base, rows, tokenizer)
        assert published(Path(base.ref)).is_dir()
        for one in (prepare.raw_teacher(session), start):
            training = Training(Path(one.ref).parent)
            assert training.settled() and published(training.path).is_dir()


def test_what_comes_with_kdbench_is_taken_again_where_it_was_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = Training(tmp_path / "given"), Training(tmp_path / "cache" / "inits" / "name")
    (given.path / "student").mkdir(parents=True)
    (given.path / "student" / "config.json").write_text("{}")
    monkeypatch.setattr("kdbench.harness.runner.published.published", lambda _: given.path)
    take_published(out)
    assert not out.path.exists()  # half of one is none
    given.stage.mark(["student"])
    take_published(out)
    assert out.settled()
    (out.student / "config.json").write_text("[]")
    said: list[str] = []
    out.heal(said.append)
    take_published(out)
    assert out.settled() and len(said) == 1
