"""Disks that are full while tensors are written, and checkpoints that are damaged: a sentence each."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdbench.harness.errors import InputError
from kdbench.trainers.checkpoint import saved
from kdbench.trainers.loop import Loop
from kdbench.trainers.methods.sft import SFT
from kdbench.trainers.proof import tiny_loop, tiny_model


def loop(out: Path, **settings: object) -> Loop:
    settings = {"steps": 3, "save_every": 1, **settings}
    return tiny_loop(SFT(SFT.Config()), student=tiny_model(1), teacher=None, out=out, **settings)


@contextmanager
def full(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("what", ["step", "student"])
def test_a_full_disk_is_said_in_a_sentence(what: str, tmp_path: Path) -> None:
    training = loop(tmp_path)
    if what == "student":
        training.run()
        shutil.rmtree(tmp_path / "student")
    with full(20_000), pytest.raises(InputError, match=r"cannot write .*free some space") as caught:
        training.run() if what == "step" else training.checkpoints.export(training.student, None)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "student").exists()
    loop(tmp_path).run()  # with room it goes on
    assert (tmp_path / "student" / "model.safetensors").is_file()


@pytest.mark.parametrize("accident", ["cut", "empty", "other", "gone"])
def test_damaged_checkpoints(accident: str, tmp_path: Path) -> None:
    training = loop(tmp_path)
    for _ in range(2):
        training._step()
    (newest,) = saved(tmp_path / "checkpoints")
    older = newest.with_name("step-00000001")
    shutil.copytree(newest, older)
    tensors = newest / "state.safetensors"
    content = tensors.read_bytes()
    if accident == "gone":
        tensors.unlink()
    else:
        changed = {"cut": content[:-50], "empty": b"", "other": b"\xff" * len(content)}
        tensors.write_bytes(changed[accident])
    assert loop(tmp_path).checkpoints.resume() is not None  # from the older one
    shutil.rmtree(older)
    with pytest.raises(InputError, match=r"cannot go on from .* begins anew"):
        loop(tmp_path).run()
