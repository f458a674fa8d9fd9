"""What every method must pass, registered or variant: a new one inherits all of it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import zoo

from kdbench.harness.own_methods import METHODS
from kdbench.trainers import proof
from kdbench.trainers.method import Stream

DIVERGENCES = ["rkd", "jsd", "tvd", "sym-kl", "akl", "taid", "imitkd", "gkd", "opd", "rlkd-akl"]
DIVERGENCES += ["distillm2", "rlkd"]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_gradient_does_not_depend_on_how_the_batch_is_cut(name: str, tmp_path: Path) -> None:
    base, terms = zoo.gradient(zoo.build(name, tmp_path, dtype=torch.float64), 10_000)
    for options, micro_tokens in (({"packed": False}, 1), ({"tile": 7}, 60)):
        loop = zoo.build(name, tmp_path, dtype=torch.float64, **options)
        other, again = zoo.gradient(loop, micro_tokens)
        assert zoo.relative(other, base) <= 1e-5, (options, micro_tokens)
        for term, value in terms.items():
            assert again[term] == pytest.approx(value, rel=2e-5, abs=1e-6), term


@pytest.mark.parametrize("name", ["cr-ild", "distillm2", "mrkd", "dskd"])
def test_other_phases_and_untied_heads(name: str, tmp_path: Path) -> None:
    """Late in training: the second phase, a curriculum, a copy that differs from the student."""
    found = []
    for options, micro_tokens in (({}, 10_000), ({"packed": False}, 1)):
        loop = zoo.build(name, tmp_path, tied=False, dtype=torch.float64, **options)
        loop.method.window(loop.ctx, 0)
        with torch.no_grad():
            for p in loop.student.parameters():
                p.mul_(1.01)
        found.append(zoo.gradient(loop, micro_tokens, step=1, progress=0.7)[0])
    assert zoo.relative(found[1], found[0]) <= 1e-5


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_parameter_gets_a_gradient(name: str, tmp_path: Path) -> None:
    """Early and late, with a head of its own: ranks wait for each other at every one."""
    loop = zoo.build(name, tmp_path, tied=False)
    for step, progress in ((0, 0.0), (1, 0.7)):
        loop.module.zero_grad(set_to_none=True)
        zoo.gradient(loop, 10_000, step=step, progress=progress)
        idle = [n for n, p in loop.module.named_parameters() if p.requires_grad and p.grad is None]
        assert not idle


STATEFUL = [*METHODS, "distillm-srkl", "plad-ranking"]  # other variants remember nothing more


@pytest.mark.parametrize("name", STATEFUL)
def test_resume_is_exact(name: str, tmp_path: Path) -> None:
    """Four steps in one go, and three (one lost), a new set of objects, and two more."""
    settings = {"steps": 4, "save_every": 2, "dtype": torch.float64}
    whole = zoo.build(name, tmp_path / "whole", **settings)
    whole.run()
    first = zoo.build(name, tmp_path / "parts", **settings)
    for _ in range(3):
        first._step()
    second = zoo.build(name, tmp_path / "parts", **settings)
    second.run()
    files = [tmp_path / part / "student" / "model.safetensors" for part in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_nothing_to_learn_from_oneself(name: str, tmp_path: Path) -> None:
    proof.check_zero_at_teacher(lambda: zoo.made(name), tmp_path)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_responses_are_targets_from_first_token_to_end_token(name: str, tmp_path: Path) -> None:
    """Whoever wrote a response: as many targets as it has tokens, the end token the last of them."""
    loop = zoo.build(name, tmp_path, dtype=torch.float64)
    ended = 0
    for step in range(3):
        streams: tuple[Stream, ...] = loop.method.window(loop.ctx, step)
        for stream in streams:
            if stream.name == "text":
                continue
            sequences = [s for group in stream.groups for s in group]
            packed = loop.layout(sequences)
            targets = packed.target_N.tolist()
            expected = [token for s in sequences for token in s.response]
            assert targets == expected
            assert int((packed.place_N == 0).sum()) == len(sequences)
            ended += sum(s.response[-1] == tiny.EOS for s in sequences)
    assert ended


WORKER = """
import sys, torch
sys.path[:0] = sys.argv[1].split(":")
from pathlib import Path
import zoo
out = {}
for name in sys.argv[3].split(","):
    loop = zoo.build(name, Path(sys.argv[2]), dtype=torch.float64)
    grad, terms = zoo.gradient(loop, 30)
    out[name] = {"grad": grad, "total": terms["total"]}
if loop.accelerator.is_main_process:
    assert loop.accelerator.num_processes == 2
    torch.save(out, sys.argv[2] + "/grad.pt")
"""


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    names = ["distillm", "sinkd", "plad", "cr-ild", "dskd", "mrkd", "opd-k1", "distillm2", "uld"]
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
        "OMP_NUM_THREADS": "1",
    }
    arguments = [f"{here}:{here / 'support'}", str(tmp_path), ",".join(names)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors[-2000:]
    found = torch.load(tmp_path / "grad.pt", weights_only=True)
    for name in names:
        base, terms = zoo.gradient(zoo.build(name, tmp_path, dtype=torch.float64), 10_000)
        assert zoo.relative(found[name]["grad"], base) <= 1e-5, name
        assert found[name]["total"] == pytest.approx(terms["total"], rel=1e-5), name
