"""Every method at the size of a test: registered ones with settings that make much happen in few steps.

A new method inherits the whole proof suite by being registered; a line in ``OPTIONS`` is only needed
where its defaults would do nothing within five steps.
"""

from pathlib import Path

import tiny
import torch

from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.trainers.loop import Loop
from kdbench.trainers.method import Method
from kdbench.trainers.proof import gradient

__all__ = ["NAMES", "build", "gradient", "made", "relative"]

PPO = {"rollouts": 16, "inner_epochs": 2}
OPTIONS: dict[str, dict[str, object]] = {
    "seqkd": {"word_kd": 0.5},
    "minillm": {"ppo": PPO},
    "minillm-code": {"ppo": PPO},
    "distillm": {"threshold": 0.7, "capacity": 12},
    "distillm2": {"refresh": 2},
    "plad": {"form": "margin", "prompts": 16},
    "sinkd": {"group": 3, "rows": 16},
    "mrkd": {"every": 2},
    "cr-ild": {"first_phase": 0.6},
}
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "uld-alone": ("uld", {"ce": 0.0}),
    "opd-k1": ("opd", {"estimator": "k1"}),
    "opd-k3": ("opd", {"estimator": "k3"}),
    "opd-top-k": ("opd", {"estimator": "top-k", "top_k": 5}),
    "distillm-srkl": ("distillm", {"divergence": "srkl", "schedule": "increasing"}),
    "rlkd-akl": ("rlkd", {"divergence": "akl"}),
    "plad-ranking": ("plad", {"prompts": 16}),
    "gkd-teacher": ("gkd", {"student_share": 0.0, "others": "teacher"}),
    "dpkd-ipo": ("dpkd", {"form": "ipo"}),
    "dpkd-cpo": ("dpkd", {"form": "cpo", "length_norm": False}),
    "dpkd-simpo": ("dpkd", {"form": "simpo", "lm_coef": 0.0}),
}
NAMES = [*METHODS, *VARIANTS]


def made(name: str) -> Method:
    """A fresh instance."""
    base, options = VARIANTS.get(name, (name, OPTIONS.get(name, {})))
    method = find_method(base).method
    return method(method.Config.model_validate(options))


def build(name: str, out: Path, *, tied: bool = True, family: str = "llama", **kw: object) -> Loop:
    """A loop around a random student and a larger random teacher."""
    return tiny.loop(
        made(name),
        student=tiny.model(family, seed=1, tied=tied),
        teacher=tiny.model(family, seed=2, tied=tied, width=48, layers=3),
        out=out,
        **kw,
    )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative distance."""
    return float((a - b).norm() / b.norm())
