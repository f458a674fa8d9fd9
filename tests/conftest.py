"""Shared fixtures: small processes, a private cache, no network."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before any library reads them: tests must pass without a network, and threads of many workers on
# few cores only wait for each other.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some test runners set the width of their own screen: what is printed here is for no screen.
os.environ.pop("COLUMNS", None)

# A shell that starts us in the background makes us ignore Ctrl-C, and so would every process we start;
# some tests send it.
with contextlib.suppress(ValueError):  # not the main thread
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps caches (mini teacher, shared inits) out of the user's cache folder."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ.setdefault("KDBENCH_CACHE", str(shared / "kdbench-cache"))


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python processes that run a snippet; those still alive at the end are killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *args: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def kdbench(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process; returns exit code, standard output and error."""
    from kdbench.harness import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, Debian's."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of ``datasets`` for this test alone, in this process and in those it starts."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data_dir() -> Path:
    """The real data sets (``KDBENCH_DATA``); the test is skipped where they are not."""
    return _folder_from("KDBENCH_DATA", "real data sets")


@pytest.fixture
def reference_dir() -> Path:
    """Numbers computed by the authors' code (``KDBENCH_REFERENCE``), or a skip."""
    return _folder_from("KDBENCH_REFERENCE", "reference numbers")


def _folder_from(variable: str, what: str) -> Path:
    with contextlib.suppress(KeyError):
        folder = Path(os.environ[variable])
        if folder.is_dir():
            return folder
    pytest.skip(f"{what} are not here: {variable} names no folder")
