"""What an operator looks at: logs, states, disk."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kdbench.harness.errors import InputError
from kdbench.harness.files import run_log
from kdbench.harness.files.cleaning import size_of, waste_of_cache
from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.records import TrainRow
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import append_rows, write_json
from kdbench.harness.progress import Progress
from kdbench.harness.resolve import resolve
from kdbench.harness.runner.disk import check_disk
from kdbench.harness.verbs.watch import Look, looks
from kdbench.reports.run.status import Status, statuses

Kdbench = Callable[..., tuple[int, str, str]]
Spawn = Callable[..., subprocess.Popen[str]]


# -- the log --------------------------------------------------------------------------------------


def fail(folder: Path) -> None:
    with RunLock(folder):
        Progress(quiet=True).say("half of it")
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("careful", UserWarning, stacklevel=1)
        try:
            raise ValueError("below, with hf_abcdefghijklmnop and https://me:word@host/")
        except ValueError as error:
            raise InputError("a sentence of 12345678secret") from error


def test_a_log_says_when_what_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "12345678secret")
    for _ in range(2):
        with pytest.raises(InputError):
            fail(tmp_path)
    with RunLock(tmp_path):
        pass
    text = (tmp_path / run_log.NAME).read_text()
    for words in (
        "versions: python",
        "half of it",
        "UserWarning: careful",
        "Traceback",
        "ValueError",
    ):
        assert words in text
    for secret in ("12345678secret", "hf_abc", "me:word"):
        assert secret not in text
    ends = [line.split(" ", 2)[2] for line in text.splitlines() if " end: " in line]
    failed = "end: failed: InputError: a sentence of [secret]"
    assert ends == [failed, failed, "end: done"]
    assert all(line[:4].isdigit() or line.startswith("    ") for line in text.splitlines())


def test_a_log_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MOST", 20_000)
    monkeypatch.setattr(run_log, "FULL", 40_000)
    for number in range(3):
        with pytest.raises(ValueError), RunLock(tmp_path):
            for line in range(1_000):
                run_log.note(f"{number} {line} " + "x" * 100)
            raise ValueError("last words")
        assert (tmp_path / run_log.NAME).stat().st_size < 45_000
    end = run_log.last_end(tmp_path)
    assert end is not None and end.said == "ValueError: last words"


# -- states ---------------------------------------------------------------------------------------


def begun(runs: Path, name: str, lr: float = 1e-3) -> RunFolder:
    run = RunFolder(runs / name)
    settings = ["train.steps=100", f"train.lr={lr}"]
    write_json(run.path / "config.json", resolve(suite="mini", method="sft", assignments=settings))
    rows = [
        TrainRow(step=step, loss=1.0, wall_s=500 + 2.0 * step, tokens={"student": 10 * step})
        for step in range(40, 61)
    ]
    scored = rows[10].model_copy(update={"evaluation": {"dev_rouge_l": 12.34}})
    append_rows(run.training.log_file, [*rows[:10], scored, *rows[11:]])
    return run


def test_states_of_runs(tmp_path: Path, spawn: Spawn, kdbench: Kdbench) -> None:
    alive, failed, stopped, killed = (begun(tmp_path, f"sft-{i}-000000000000") for i in range(4))
    begun(tmp_path, "sft-4-000000000000", lr=1e-4)
    hold = (
        "import sys, time\nfrom kdbench.harness.files.locks import RunLock\n"
        "with RunLock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holders = [spawn(hold, run.path) for run in (alive, killed)]
    for holder in holders:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holders[1].kill()
    holders[1].wait()
    with pytest.raises(InputError):
        fail(failed.path)
    with pytest.raises(KeyboardInterrupt), RunLock(stopped.path):
        raise KeyboardInterrupt
    found = {each.run: each for each in statuses([alive, failed, stopped, killed])}
    assert [found[run.name].state for run in (alive, failed, stopped, killed)] == [
        "running",
        "crashed",
        "interrupted",
        "crashed",
    ]
    assert found[failed.name].about == "InputError: a sentence of 12345678secret"
    assert found[killed.name].about == "killed"
    now = found[alive.name]
    assert (now.step, now.steps, now.left_s) == (60, 100, pytest.approx(80.0))
    assert now.score == "dev ROUGE-L 12.3 at 50" and str(holders[0].pid) in now.about
    code, out, _ = kdbench("ls", "runs", "--runs-dir", tmp_path)
    assert code == 0 and "train.lr=0.0001" in out and "1 min 20 s" in out and "60/100" in out


def test_watching_ends(tmp_path: Path, kdbench: Kdbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(*states: str, waiting: int = 0) -> Look:
        made = [
            Status(str(i), s, "", None, None, 0, None, "", {}, {})  # type: ignore[arg-type]
            for i, s in enumerate(states)
        ]
        return Look(made, waiting)

    def ends(*story: Look) -> int:
        """How many looks it takes; the last one lasts."""
        rest = list(story)
        return len(list(looks(lambda: rest.pop(0) if len(rest) > 1 else rest[0], 0.01, 0.05)))

    assert ends(seen("done")) == 1
    assert ends(seen("running"), seen("unfinished"), seen("running"), seen("done")) == 4
    assert ends(seen("running"), seen("crashed", "done")) == 2
    assert ends(seen("crashed"), seen("running"), seen("done")) == 3  # it was just started again
    assert ends(seen("running"), seen("done", waiting=1)) > 3

    begun(tmp_path, "sft-0-000000000000")
    monkeypatch.setitem(sys.modules["kdbench.harness.verbs.watch"].GRACE, "run", 0.0)
    code, out, err = kdbench("watch", "sft-0", "--runs-dir", tmp_path)
    assert code == 1 and "sft-0-000000000000: unfinished, step 60/100" in out
    assert "nobody works on it" in err


# -- disk -----------------------------------------------------------------------------------------


def test_a_disk_without_room_is_said_before(
    tmp_path: Path, kdbench: Kdbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3_600))
    check_disk(tmp_path / "not" / "there", 100)
    with pytest.raises(InputError, match="kdbench clean --dry-run"):
        check_disk(tmp_path / "not" / "there", 101)
    (tmp_path / "checkpoints").write_bytes(bytes(100))  # what is there already is had
    check_disk(tmp_path, 102)
    mini = ("run", "--suite", "mini-test", "--method", "sft", "--tasks", "dolly")
    code, _, err = kdbench(*mini, "--runs-dir", tmp_path / "runs")
    assert code == 2 and "3.4e" not in err and "GiB free; free some space" in err
    assert not list((tmp_path / "runs").glob("*/config.json"))


class Made(NamedTuple):
    """A finished run, and where it and what it shares lie."""

    runs: Path
    run: RunFolder
    command: tuple[object, ...]


@pytest.fixture
def made(tmp_path: Path, kdbench: Kdbench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """A run whose student is not the smallest of all."""
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "wide" / "config.json"
    teacher = tiny_config()
    config.parent.mkdir()
    config.write_text(json.dumps(teacher))
    settings = ("--set", "train.steps=2", "--set", "init_sft.steps=1", "--set", "teacher_sft=null")
    asked = ("run", "--suite", "mini-test", "--method", "sft", "--student", config)
    command = (*asked, *settings, "--tasks", "dolly", "--runs-dir", tmp_path / "runs")
    code, _, err = kdbench(*command)
    assert code == 0, err
    (folder,) = (tmp_path / "runs").glob("sft-*")
    yield Made(tmp_path / "runs", RunFolder(folder), command)


def tiny_config() -> dict[str, object]:
    from kdbench.tasks import mini

    made = mini.model_config("student", "mini-test").to_dict()
    wider = {name: 4 * made[name] for name in ("hidden_size", "intermediate_size") if name in made}
    return {**made, **wider, **({"n_embd": 4 * made["n_embd"]} if "n_embd" in made else {})}


def test_cleaning_gives_most_back_and_changes_no_board(made: Made, kdbench: Kdbench) -> None:
    boards = ("leaderboard", made.runs, "--format", "json")
    before, size = kdbench(*boards), size_of(made.run.path)
    assert before[0] == 0
    code, out, _ = kdbench("clean", made.runs, "--dry-run", "--students", "--json")
    would = json.loads(out)
    assert code == 0 and size_of(made.run.path) == size
    assert kdbench("clean", made.runs)[0] == 0  # by default a student stays
    assert (made.run.training.student / "model.safetensors").is_file()

    code, out, _ = kdbench("clean", made.runs, "--students", "--cache", "all")
    assert code == 0 and "gave back" in out
    left = size_of(made.run.path)
    print(f"{size} bytes, {left} after cleaning: {1 - left / size:.0%} given back")
    assert left <= 0.2 * size and would["bytes"] >= 0.8 * size
    assert [w.kind for w in waste_of_cache(made.runs.parent / "cache")] == []
    assert kdbench(*boards) == before
    assert kdbench("check", "--content", made.runs)[0] == 0
    (status,) = statuses([made.run])
    assert status.state == "done"
    code, out, err = kdbench(*made.command)  # the same command has nothing to do
    assert code == 0, err
    code, _, err = kdbench("eval", made.run.path, "--tasks", "selfinst")
    assert code == 2 and "taken away by kdbench clean" in err


def test_what_goes_on_is_left_alone(tmp_path: Path, kdbench: Kdbench) -> None:
    run = begun(tmp_path / "runs", "sft-0-000000000000")
    checkpoint = run.training.path / "checkpoints" / "step-00000050"
    checkpoint.mkdir(parents=True)
    code, out, _ = kdbench("clean", tmp_path / "runs", "--students")
    assert code == 0 and "gave back 0.0 MB" in out and checkpoint.is_dir()
    code, _, err = kdbench("clean", "--cache", "teacher")
    assert code == 2 and "did you mean teachers" in err
