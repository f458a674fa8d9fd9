"""The recipe: how budgets are read, and the learning rate from warm-up to the floor."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo

from kdbench.harness.config import TrainConfig
from kdbench.harness.files.store import read_rows
from kdbench.trainers.optim import Recipe

# 24 examples in batches of 8: 12 steps whichever way it is said, but for tokens, which are uneven
BUDGETS = ({"steps": 12}, {"steps": None, "epochs": 4}, {"steps": None, "response_tokens": 1000})


def rates(out: Path) -> list[float]:
    return [row["lr"] for row in read_rows(out / "metrics.jsonl")]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_warm_up_joins_the_schedule_at_the_peak(
    schedule: str, budget: dict[str, Any], tmp_path: Path
) -> None:
    options = {"lr": 1e-3, "lr_floor": 1e-5, "schedule": schedule, "warmup": 4}
    loop = zoo.build("sft", tmp_path, **budget, **options)
    loop.run()
    found = rates(tmp_path)
    assert found[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert found[4] == max(found) == 1e-3  # exactly the peak, where a schedule over all skips it
    assert all(a > b for a, b in pairwise(found[4:]))
    assert len(found) > 10 and 0 < loop.state.warmed < 0.5
    assert loop.recipe.rate(len(found), 1.0, loop.state.warmed) == pytest.approx(1e-5)


def test_without_warm_up_the_schedule_runs_over_the_whole_budget() -> None:
    recipe = Recipe(steps=10, lr=1.0, lr_floor=0.0, schedule="linear")
    assert [recipe.rate(s, s / 10, warmed=0.0) for s in range(10)] == pytest.approx(
        [1 - s / 10 for s in range(10)]
    )


@pytest.mark.parametrize("budget", BUDGETS)
def test_rates_and_weights_are_the_same_after_a_kill(
    budget: dict[str, Any], tmp_path: Path
) -> None:
    """Killed in warm-up, where it ends and after it, each time a step past a checkpoint."""
    settings = {**budget, "warmup": 4, "save_every": 2, "dtype": torch.float64}
    zoo.build("sft", tmp_path / "whole", **settings).run()
    for done in (3, 3, 3):
        loop = zoo.build("sft", tmp_path / "parts", **settings)
        loop._resume()
        for _ in range(done):
            loop._step()
    zoo.build("sft", tmp_path / "parts", **settings).run()
    assert rates(tmp_path / "parts") == rates(tmp_path / "whole")
    files = [tmp_path / part / "student" / "model.safetensors" for part in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_budget_within_warm_up_never_leaves_it(tmp_path: Path) -> None:
    zoo.build("sft", tmp_path, steps=3, warmup=9, lr=1e-3).run()
    assert rates(tmp_path) == pytest.approx([1e-4, 2e-4, 3e-4])


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 7}, 7),
        ({"epochs": 2}, 8),
        ({"epochs": 0.01}, 1),
        ({"epochs": 2, "steps": 5}, 5),
        ({"epochs": 2, "steps": 50}, 8),
        ({"response_tokens": 10}, None),
    ],
)
def test_steps_of_a_budget(budget: dict[str, Any], steps: int | None) -> None:
    assert Recipe(batch_size=8, **budget).steps_of(examples=26) == steps


def test_evaluations_are_counted_in_steps() -> None:
    assert Recipe(steps=1, batch_size=8).evaluation_every(examples=26) == 4
    assert Recipe(steps=1, batch_size=8, eval_every=3).evaluation_every(examples=26) == 3


def test_the_configuration_of_a_run_holds_the_recipe_and_no_torch() -> None:
    assert issubclass(TrainConfig, Recipe)
    code = "import sys, kdbench.harness.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
