"""How the mini teacher is trained, and what identifies the world it is trained on."""

import hashlib
import json
from functools import cache
from typing import Any

from kdbench.tasks.mini.models import teacher_config
from kdbench.tasks.mini.world import rows

TEACHER: dict[str, dict[str, Any]] = {
    "mini": {"steps": 900, "batch_size": 64, "lr": 2e-3, "warmup": 50},
    "mini-test": {"steps": 60, "batch_size": 32, "lr": 4e-3, "warmup": 5},
}


def teacher_training(size: str) -> dict[str, Any]:
    """Training fields of the teacher; its seed is fixed, so that all runs share one teacher."""
    return {
        "epochs": None,
        "response_tokens": None,
        "schedule": "cosine",
        "seed": 0,
        "init_seed": None,
        "eval_every": 0,
        "save_every": 100,
        "select": "last",
        **TEACHER[size],
    }


@cache
def fingerprint(size: str) -> str:
    """Hex sha256 of the teacher's training rows and architecture."""
    text = json.dumps(
        [rows("train", size=size), teacher_config(size).to_diff_dict()], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()
