"""How the mini teacher is trained, and what identifies the world it is trained on."""

import hashlib
import json
from functools import cache
from typing import Any

from kdbench.tasks.mini.models import model_config
from kdbench.tasks.mini.world import rows

# Complete: nothing that a run sets for its student reaches the teacher, so that all runs share it.
TEACHER: dict[str, Any] = {
    "lr": 3e-3,
    "warmup": 50,
    "schedule": "cosine",
    "lr_floor": 6e-5,
    "weight_decay": 1e-2,
    "betas": (0.9, 0.98),
    "clip": 1.0,
    "max_length": 160,
    "max_prompt": 64,
    "micro_tokens": 8192,
    "precision": "fp32",
    "sample_precision": "fp64",
    "dropout": False,
    "seed": 0,
    "init": "pretrained",
    "eval_every": 0,
    "save_every": 100,
    "select": "last",
}
SIZES: dict[str, dict[str, Any]] = {
    "mini-2": {"steps": 700, "batch_size": 64},
    "mini-test": {"steps": 60, "batch_size": 32, "lr": 4e-3, "warmup": 5},
}


def teacher_training(size: str) -> dict[str, Any]:
    """Training fields of the teacher of a world size."""
    return {**TEACHER, **SIZES[size]}


@cache
def fingerprint(size: str) -> str:
    """Hex sha256 of the teacher's training rows and architecture."""
    text = json.dumps(
        [rows("train", size=size), model_config("teacher", size).to_diff_dict()],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()
