"""A method from outside: written by the verb, found by path, held to the conformance suite."""

import importlib.util
from pathlib import Path

import pytest

from kdbench.harness.cli import _run
from kdbench.harness.registry import find_method
from kdbench.trainers import proof
from kdbench.trainers.method import Context, MicroBatch, Stream, Sums


def test_new_method_passes_its_test(tmp_path: Path) -> None:
    assert _run(["new-method", "my-kd", "--folder", str(tmp_path)]) == 0
    found = find_method(str(tmp_path / "my-kd.py"))
    assert (found.name, found.method.__name__) == ("my-kd", "MyKd")
    spec = importlib.util.spec_from_file_location("test_my_kd", tmp_path / "test_my_kd.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.test_conformance(tmp_path / "scratch")


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_mine.py").write_text("mine")
    assert _run(["new-method", "mine", "--folder", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not (tmp_path / "mine.py").exists()
    assert _run(["new-method", "no good", "--folder", str(tmp_path)]) == 2


def test_the_suite_catches_means_and_forgetting(tmp_path: Path) -> None:
    from kdbench.trainers.methods.fkd import ForwardKD

    class Mean(ForwardKD):
        def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
            sums = super().loss(ctx, stream, micro)
            return {"loss": sums["loss"] / len(micro.packed.target_N)}

    class Forgetful(ForwardKD):
        steps = 0

        def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
            return {"loss": super().loss(ctx, stream, micro)["loss"] * (1 + self.steps)}

        def after_step(self, ctx: Context, step: int, terms: dict[str, float]) -> None:
            self.steps += 1

    with pytest.raises(AssertionError, match="return sums"):
        proof.check_cuts(lambda: Mean(Mean.Config()), tmp_path)
    with pytest.raises(AssertionError, match="missing from state_dict"):
        proof.check_resume(lambda: Forgetful(Forgetful.Config()), tmp_path)
