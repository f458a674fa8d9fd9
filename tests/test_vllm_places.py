"""Folders of weights on their way to vLLM do not outlive a process that was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from kdbench.trainers.vllm import places
from kdbench.trainers.vllm.places import HeldFolder, held_folder, sweep

HOLD = """
import sys, time
from pathlib import Path
from kdbench.trainers.vllm.places import HeldFolder
print(HeldFolder(Path(sys.argv[1])).path, flush=True)
time.sleep(60)
"""


def aged(folder: Path) -> Path:
    """As if it had been made long ago."""
    os.utime(folder, (0, 0))
    return folder


def test_a_killed_owners_folder_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        (folder / "model.safetensors").write_bytes(b"0" * 100)
        sweep(tmp_path)
        assert aged(folder).is_dir()
        sweep(tmp_path)
        assert folder.is_dir()
        owner.send_signal(signal.SIGKILL)
    with held_folder(tmp_path) as mine:
        assert mine.is_dir() and not folder.exists()
    assert not mine.exists()


def test_what_is_young_or_no_folder_of_ours_stays(tmp_path: Path) -> None:
    other, young = aged_folder(tmp_path / "weights"), tmp_path / f"{places.PREFIX}young"
    young.mkdir()
    link = tmp_path / f"{places.PREFIX}link"
    link.symlink_to(other)
    os.utime(link, (0, 0), follow_symlinks=False)
    sweep(tmp_path)
    assert other.is_dir() and young.is_dir() and link.is_symlink()


def test_letting_go_twice_is_nothing(tmp_path: Path) -> None:
    held = HeldFolder(tmp_path)
    held.release()
    held.release()
    assert not held.path.exists()


def aged_folder(path: Path) -> Path:
    path.mkdir()
    return aged(path)
