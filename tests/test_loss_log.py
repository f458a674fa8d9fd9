"""What is logged is what is minimised: for every method, and whatever a method returns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import zoo

from kdbench.harness.files.store import read_rows
from kdbench.trainers.loop import Loop
from kdbench.trainers.method import Context, Method, MicroBatch, Stream
from kdbench.trainers.methods.fkd import ForwardKD

Recorded = list[tuple[Stream, float]]


@pytest.fixture
def minimised(monkeypatch: pytest.MonkeyPatch) -> Callable[[Loop], Recorded]:
    """Starts to record each scalar on which torch itself is asked for gradients, with its stream."""

    def record(loop: Loop) -> Recorded:
        found: Recorded = []
        streams: list[Stream] = []
        loss, backward = loop.method.loss, torch.Tensor.backward

        def asked(ctx: Context, stream: Stream, micro: MicroBatch) -> Any:
            streams.append(stream)
            return loss(ctx, stream, micro)

        def recording(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append((streams[-1], float(self.detach())))
            return backward(self, *args, **kwargs)

        monkeypatch.setattr(loop.method, "loss", asked)
        monkeypatch.setattr(torch.Tensor, "backward", recording)
        return found

    return record


def check_log(loop: Loop, minimised: Callable[[Loop], Recorded], steps: int) -> None:
    """Rows of the log against the scalars that were minimised, in total and a stream."""
    recorded = minimised(loop)
    for _ in range(steps):
        recorded.clear()
        loop._step()
        row = read_rows(loop.out / "metrics.jsonl")[-1]
        same = {"rel": 1e-5, "abs": 1e-7}
        assert row["loss"] == pytest.approx(sum(value for _, value in recorded), **same)
        weights = {stream.name: stream.weight for stream, _ in recorded}
        for name, weight in weights.items():
            optimised = sum(value for stream, value in recorded if stream.name == name)
            assert weight * row["terms"][name] == pytest.approx(optimised, **same), name
        total = sum(weight * row["terms"][name] for name, weight in weights.items())
        assert row["loss"] == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_logged_losses_are_the_minimised_ones(
    name: str, tmp_path: Path, minimised: Callable[[Loop], Recorded]
) -> None:
    check_log(zoo.build(name, tmp_path, micro_tokens=100), minimised, steps=4)


def test_scaling_after_logging_is_noticed(
    tmp_path: Path, minimised: Callable[[Loop], Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = zoo.build("fkd", tmp_path)
    backward = loop.accelerator.backward
    monkeypatch.setattr(loop.accelerator, "backward", lambda loss: backward(9 * loss))
    with pytest.raises(AssertionError):
        check_log(loop, minimised, steps=1)


def test_a_method_that_scales_is_logged_as_it_scales(tmp_path: Path) -> None:
    class Scaled(ForwardKD):
        card = ForwardKD.card

        def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Any:
            sums = super().loss(ctx, stream, micro)
            return sums | {"loss": 9 * sums["loss"]}

    logged = []
    for method in (ForwardKD, Scaled):
        loop = loop_of(method(method.Config()), tmp_path / method.__name__)
        loop._step()
        logged.append(read_rows(loop.out / "metrics.jsonl")[-1]["loss"])
    assert logged[1] == pytest.approx(9 * logged[0])


def test_a_weight_of_zero_is_logged_and_trains_nothing(tmp_path: Path) -> None:
    class Idle(ForwardKD):
        card = ForwardKD.card

        def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
            return (
                Stream.of("response", ctx.batch(step)),
                Stream.of("idle", ctx.batch(step), weight=0.0),
            )

    loop = loop_of(Idle(Idle.Config()), tmp_path)
    loop._step()
    row = read_rows(tmp_path / "metrics.jsonl")[-1]
    assert row["loss"] == row["terms"]["response"] == row["terms"]["idle"] > 0


RETURNS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "bare": (lambda loss: loss, "returned Tensor;"),
    "nothing": (lambda loss: None, "returned NoneType;"),
    "no loss": (lambda loss: {"kl": loss}, "returned no 'loss' but 'kl';"),
    "empty": (lambda loss: {}, "returned no 'loss' but nothing;"),
    "vector": (
        lambda loss: {"loss": loss.repeat(3)},
        r"returned a tensor of shape \(3,\) under 'loss'",
    ),
    "term": (
        lambda loss: {"loss": loss, "kl": loss.repeat(2)},
        r"returned a tensor of shape \(2,\) under 'kl'",
    ),
    "number": (lambda loss: {"loss": loss, "kl": 1.0}, "returned float under 'kl'"),
    "detached": (lambda loss: {"loss": loss.detach()}, "returned a 'loss' without gradient"),
}


@pytest.mark.parametrize("what", RETURNS)
def test_a_malformed_return_is_one_sentence_with_the_methods_name(
    what: str, tmp_path: Path
) -> None:
    make, sentence = RETURNS[what]

    class Malformed(ForwardKD):
        card = ForwardKD.card

        def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Any:
            return make(super().loss(ctx, stream, micro)["loss"])

    loop = loop_of(Malformed(Malformed.Config()), tmp_path)
    with pytest.raises(TypeError, match=f"loss.. of method Malformed {sentence}") as caught:
        loop._step()
    assert "must return a mapping of scalar tensors" in str(caught.value)
    assert not (tmp_path / "metrics.jsonl").exists()


def loop_of(method: Method, out: Path) -> Loop:
    return tiny.loop(method, student=tiny.model(seed=1), teacher=tiny.model(seed=2), out=out)
