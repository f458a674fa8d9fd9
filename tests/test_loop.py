"""The loop: the same gradient however a batch is cut up, exact resume, and what it refuses."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from kdbench.harness.errors import CellFailed, InputError
from kdbench.harness.files.store import read_rows
from kdbench.trainers.batching import Stream
from kdbench.trainers.loop import Loop
from kdbench.trainers.method import Method
from kdbench.trainers.methods.dpkd import DPKD
from kdbench.trainers.methods.dpkd_token import DPKDToken
from kdbench.trainers.methods.fkd import ForwardKD
from kdbench.trainers.methods.minillm import MiniLLM
from kdbench.trainers.methods.minillm_code import MiniLLMCode
from kdbench.trainers.methods.seqkd import SeqKD
from kdbench.trainers.methods.sft import SFT
from kdbench.trainers.optim import Recipe
from kdbench.trainers.types import Sequence

PPO = {"rollouts": 16, "inner_epochs": 2}
METHODS: dict[str, tuple[type[Method], dict[str, object]]] = {
    "sft": (SFT, {}),
    "fkd": (ForwardKD, {}),
    "seqkd": (SeqKD, {"word_kd": 0.5}),
    "minillm": (MiniLLM, {"ppo": PPO}),
    "minillm-code": (MiniLLMCode, {"ppo": PPO}),
    "dpkd": (DPKD, {}),
    "dpkd-token": (DPKDToken, {}),
}


def made(name: str) -> Method:
    method, options = METHODS[name]
    return method(method.Config.model_validate(options))


def build(name: str, out: Path, *, tied: bool = True, family: str = "llama", **kw: object) -> Loop:
    return tiny.loop(
        made(name),
        student=tiny.model(family, seed=1, tied=tied),
        teacher=tiny.model(family, seed=2, tied=tied, width=48, layers=3),
        out=out,
        **kw,
    )


def gradient(loop: Loop, micro_tokens: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient of optimiser step 0, flattened, and the logged terms."""
    window = loop.method.window(loop.ctx, 0)
    terms = loop._gradients(window, micro_tokens)
    grads = [p.grad.flatten() for p in loop.module.parameters() if p.grad is not None]
    return torch.cat(grads).clone(), terms


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_gradient_does_not_depend_on_how_the_batch_is_cut(
    name: str, tied: bool, tmp_path: Path
) -> None:
    base, terms = gradient(build(name, tmp_path, tied=tied), micro_tokens=10_000)
    variants = [
        ({"packed": False}, 10_000),
        ({"tile": 3}, 10_000),
        ({"packed": False}, 1),  # one sequence (or pair) at a time
        ({"tile": 7}, 60),
    ]
    for options, micro_tokens in variants:
        other, again = gradient(build(name, tmp_path, tied=tied, **options), micro_tokens)
        assert relative(other, base) <= 1e-5, (options, micro_tokens)
        assert again["total"] == pytest.approx(terms["total"], rel=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    base, _ = gradient(build("fkd", tmp_path, family=family), 10_000)
    one, _ = gradient(build("fkd", tmp_path, family=family, packed=False), 1)
    assert relative(one, base) <= 1e-5


WORKER = """
import sys, torch
sys.path[:0] = sys.argv[1].split(":")
from pathlib import Path
import test_loop
loop = test_loop.build(sys.argv[2], Path(sys.argv[3]), tied=sys.argv[4] == "tied")
grad, terms = test_loop.gradient(loop, 30)
if loop.accelerator.is_main_process:
    found = {"grad": grad, "terms": terms, "world": loop.accelerator.num_processes}
    torch.save(found, sys.argv[3] + "/grad.pt")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "head"), [("fkd", "tied"), ("minillm", "untied"), ("dpkd", "tied")]
)
def test_two_processes_give_the_gradient_of_one(name: str, head: str, tmp_path: Path) -> None:
    base, terms = gradient(build(name, tmp_path, tied=head == "tied"), 10_000)
    here = Path(__file__).parent
    path = f"{here}:{here / 'support'}"
    shared = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, path, name, str(tmp_path), head],
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
    assert found["world"] == 2
    assert relative(found["grad"], base) <= 1e-5
    assert found["terms"]["total"] == pytest.approx(terms["total"], rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_resume_is_exact(name: str, tmp_path: Path) -> None:
    """Five steps in one go, and three, a new process' worth of objects, and two more."""
    settings = {"steps": 5, "save_every": 3, "dtype": torch.float64}
    whole = build(name, tmp_path / "whole", **settings)
    whole.run()
    first = build(name, tmp_path / "parts", **settings)
    for _ in range(4):  # one step further than the checkpoint, as a kill would leave it
        first._step()
    second = build(name, tmp_path / "parts", **settings)
    second.run()
    assert second.state.step == 5
    for name_, weight in whole.student.state_dict().items():
        assert torch.equal(weight, second.student.state_dict()[name_]), name_
    files = [tmp_path / part / "student" / "model.safetensors" for part in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = read_rows(tmp_path / "parts/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]


def test_budget_in_response_tokens(tmp_path: Path) -> None:
    loop = build("sft", tmp_path, steps=None, response_tokens=150)
    loop.run()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[-1]["tokens"]["response"] >= 150 > rows[-2]["tokens"]["response"]


@pytest.mark.parametrize(
    ("budgets", "end"),
    [({"steps": 2, "response_tokens": 1000}, 2), ({"steps": 50, "response_tokens": 1}, 1)],
)
def test_the_first_budget_that_is_reached_ends_it(
    budgets: dict[str, int], end: int, tmp_path: Path
) -> None:
    assert build("sft", tmp_path, **budgets).run().step == end


def test_a_window_without_targets_moves_nothing(tmp_path: Path) -> None:
    loop = build("sft", tmp_path)
    empty = [Sequence(each.prompt, ()) for each in tiny.sequences(4)]
    loop.method.window = lambda ctx, step: (Stream.of("response", empty),)
    before = {name: weight.clone() for name, weight in loop.student.state_dict().items()}
    loop._step()
    assert loop.state.step == 1
    assert all(
        torch.equal(weight, before[name]) for name, weight in loop.student.state_dict().items()
    )


def test_a_sequence_longer_than_a_row_makes_a_longer_row(tmp_path: Path) -> None:
    loop = build("fkd", tmp_path)
    rows = tiny.sequences(6)
    short = replace(loop.layout, row=4)(rows)
    assert short.target_N.tolist() == loop.layout(rows).target_N.tolist()
    assert short.input_ids_RT.shape[1] == max(len(s) for s in rows) - 1


def test_divergence_is_one_sentence_and_leaves_the_weights(tmp_path: Path) -> None:
    loop = build("sft", tmp_path, lr=1e15, schedule="constant")
    with pytest.raises(CellFailed, match=r"diverged at step 2: loss .*nan; lower train.lr"):
        loop.run()
    assert all(p.isfinite().all() for p in loop.student.parameters())
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1]


def test_an_evaluation_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    loop = build("sft", tmp_path, eval_every=1, select="min:dev_loss")
    losses = {0: 3.0, 1: 2.0, 2: float("nan")}
    loop.evaluator = lambda step: {"dev_loss": losses[step]}
    with pytest.raises(CellFailed, match="diverged at step 2: dev_loss nan"):
        loop.run()
    assert loop.state.best_step == 1
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 1]


def test_the_student_is_that_of_the_best_step_of_the_checkpoint(tmp_path: Path) -> None:
    """Also if a lost step was better and, with other micro-batches, does not come out so again."""

    def made(losses: list[float]) -> Loop:
        settings = {"eval_every": 1, "save_every": 2, "select": "min:dev_loss"}
        loop = build("sft", tmp_path, **settings)
        loop.evaluator = lambda step: {"dev_loss": losses[step]}
        return loop

    first = made([9, 5, 4, 1])
    for _ in range(2):
        first._step()
    best = {name: weight.clone() for name, weight in first.student.state_dict().items()}
    first._step()  # better than any, and lost
    trained = made([9, 5, 4, 7, 6]).run()
    assert trained.best_step == 2
    exported = load_file(tmp_path / "student" / "model.safetensors")
    assert all(torch.equal(weight, best[name]) for name, weight in exported.items())
    folders = [p.name for p in (tmp_path / "checkpoints").glob("best-*")]
    assert folders == ["best-00000002"]


def test_training_learns(tmp_path: Path) -> None:
    loop = build("fkd", tmp_path, steps=40)
    loop.run()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_a_sharded_student_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.trainers.loop.SHARDED", (DistributedType.NO,))  # one process
    with pytest.raises(InputError, match=r"cannot run under NO.*parallel\.shard=fsdp2"):
        build("fkd", tmp_path)


@pytest.mark.parametrize(
    ("schedule", "places"),
    [
        ("constant", {0.0: 1.0, 1.0: 1.0}),
        ("linear", {0.0: 1.0, 0.5: 0.5, 1.0: 0.0}),
        ("cosine", {0.0: 1.0, 0.5: 0.5, 1.0: 0.0}),
        ("cosine-rise", {0.0: 1.0, 1 / 3: 0.5, 2 / 3: 0.0, 1.0: 0.5}),
    ],
)
def test_schedules(schedule: str, places: dict[float, float]) -> None:
    recipe = Recipe(steps=100, lr=1.25, lr_floor=0.25, warmup=9, schedule=schedule)
    for progress, share in places.items():
        rate = recipe.rate(9, progress, warmed=0.0)
        assert rate == pytest.approx(0.25 + share if schedule != "constant" else 1.25)
        later = recipe.rate(50, 0.2 + 0.8 * progress, warmed=0.2)  # from the end of warm-up on
        assert later == pytest.approx(rate)
    assert recipe.rate(3, 0.9, warmed=0.0) == pytest.approx(1.25 * 0.4)


def test_tokens_are_counted_by_model(tmp_path: Path) -> None:
    tokens = build("fkd", tmp_path / "fkd").run().tokens
    assert tokens["teacher"] == tokens["student"] > tokens["response"] > 0
    assert "teacher" not in build("sft", tmp_path / "sft").run().tokens
