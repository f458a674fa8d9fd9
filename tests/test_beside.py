"""A second process beside a training: what it says, how it fails, that it ends; and the same bytes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kdbench.harness.config import Request
from kdbench.harness.errors import CellFailed, InputError
from kdbench.harness.progress import Progress
from kdbench.harness.resolve import resolve
from kdbench.harness.runner import beside
from kdbench.harness.session import Session, open_session

SAYS = "import sys, json; asked = json.loads(sys.stdin.readline()); "


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keeps it."""
        self.lines.append(text)


@pytest.fixture
def session(tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(beside, "WORTH", 0)
    config = resolve(suite="mini-test", method="sft", assignments=(), flags={})
    return open_session(
        Request(config=config, runs_dir=tmp_path, cache_dir=tmp_path, device="cpu"), Heard()
    )


def doing(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(beside, "COMMAND", (sys.executable, "-c", SAYS + code))


def looked(session: Session, seconds: float = 20.0) -> None:
    """Steps of a training until the other process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and torch.get_num_threads() == 1:
        assert session.meanwhile is not None
        session.meanwhile()
        time.sleep(0.02)


def test_it_is_told_what_to_do_and_its_lines_are_shown(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing(monkeypatch, "print('a library'); print(json.dumps({'line': str(asked['work'])}))")
    with beside.beside(session, "answers", "references"):
        assert torch.get_num_threads() == 1
        looked(session)
        assert torch.get_num_threads() == 2  # it is done: its thread is ours again
    assert isinstance(session.progress, Heard)
    assert session.progress.lines == ["['answers', 'references']"]
    assert session.meanwhile is None


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (1, CellFailed)])
def test_its_sentence_ends_both(
    session: Session, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    doing(monkeypatch, f"print(json.dumps({{'error': 'no room', 'code': {code}}})); exit({code})")
    with pytest.raises(kind, match=r"^no room$"), beside.beside(session, "answers"):
        looked(session)
    assert torch.get_num_threads() == 2


def test_one_that_dies_is_not_needed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    doing(
        monkeypatch,
        "import os; print('out of luck', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
    )
    with beside.beside(session, "answers"):
        looked(session)
    assert isinstance(session.progress, Heard)
    (line,) = session.progress.lines
    assert "ended (-9: out of luck)" in line


def test_it_ends_with_the_block(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    doing(
        monkeypatch,
        "import os, time; print(json.dumps({'line': str(os.getpid())}), flush=True); time.sleep(60)",
    )
    with pytest.raises(KeyboardInterrupt), beside.beside(session, "answers"):
        assert isinstance(session.progress, Heard)
        while not session.progress.lines:
            time.sleep(0.02)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(int(session.progress.lines[0]), 0)


def test_nothing_is_started_where_there_is_nothing_to_share(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing(monkeypatch, "raise SystemExit('must not run')")
    torch.set_num_threads(1)
    with beside.beside(session, "answers"):
        assert session.meanwhile is None
    torch.set_num_threads(2)
    monkeypatch.setattr(beside, "WORTH", 1000)
    with beside.beside(session, "answers"):
        assert session.meanwhile is None


RUN = """
import sys, torch
from kdbench.harness.runner import beside
beside.WORTH = 0
torch.set_num_threads(int(sys.argv[1]))
from kdbench.harness.cli import main
main(sys.argv[2:])
"""
ARGUMENTS = ["run", "--method", "dpkd", "--suite", "mini-test", "--tasks", "dolly"]
ARGUMENTS += ["--set", "train.steps=30", "--runs-dir", "runs"]


def begun(folder: Path, threads: int) -> "subprocess.Popen[bytes]":
    folder.mkdir(exist_ok=True)
    own = {"KDBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(threads), *ARGUMENTS]
    with (folder / "output").open("ab") as sink:
        return subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=sink, stderr=sink)


def made(folder: Path) -> dict[str, str]:
    """Digests of students, teachers, answers and scores."""
    names = ("*.safetensors", "samples*.jsonl", "scores.jsonl")
    files = [file for name in names for file in sorted(folder.rglob(name))]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.long
def test_the_same_bytes_with_and_without_it_killed_or_not(tmp_path: Path) -> None:
    assert begun(tmp_path / "alone", 1).wait(600) == 0
    alone = made(tmp_path / "alone")
    assert begun(tmp_path / "two", 2).wait(600) == 0
    assert "teacher answers" in (tmp_path / "two" / "output").read_text()
    assert made(tmp_path / "two") == alone
    for seconds in (9.0, 14.0, 19.0):
        killed = begun(tmp_path / "killed", 2)
        try:
            killed.wait(seconds)
        except subprocess.TimeoutExpired:
            killed.send_signal(signal.SIGKILL)
            killed.wait()
    assert begun(tmp_path / "killed", 2).wait(600) == 0
    assert made(tmp_path / "killed") == alone


def test_what_is_asked_is_plain_data(session: Session) -> None:
    asked = json.loads(json.dumps(beside._asked(session, ("answers",))))
    assert type(session.config).model_validate(asked["config"]) == session.request.config
