"""Commands that train a student on what a teacher behind an endpoint answers."""

import json
from pathlib import Path
from typing import Any

from own_models import chat_model, chats

FAST = {"max_retries": 1, "timeout_s": 5, "give_up_after": 3}
SETTINGS = {
    "pair.template": "chat",
    "data.dev": "null",
    "data.text": "null",
    "train.init": "pretrained",
    "init_sft": "null",
    "teacher_sft": "null",
    "train.epochs": "null",
    "train.steps": 2,
    "train.batch_size": 4,
    "train.max_length": 96,
    "train.max_prompt": 64,
    "train.select": "last",
    "train.eval_every": 0,
    "generate.chunk": 8,
    "tasks.probes": "[]",
}


def command(url: str, made: Path, runs: Path, method: str, **endpoint: Any) -> list[str]:
    """``kdbench`` arguments: a tiny student learns for two steps from 12 rows, one of them held out.

    Args:
        url: of the endpoint.
        made: folder for student and rows.
        runs: folder of run folders.
        method: one that needs answers alone.
        endpoint: settings of the endpoint, over those that make failures quick.
    """
    student = chat_model(made / "student")
    rows = chats(made / "rows.jsonl", 12)
    settings = SETTINGS | {"endpoint": json.dumps(FAST | endpoint), "data.train": rows}
    sets = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
    pair = ["--teacher", f"{url}/#tiny-teacher", "--student", str(student)]
    where = ["--runs-dir", str(runs), "--device", "cpu"]
    return ["train", "--suite", "smollm2", "--method", method, *where, *pair, *sets]
