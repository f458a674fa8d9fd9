"""What all evaluations of a model share, whatever the task: part of each one's record, and of its key."""

from typing import Any

from kdbench.harness.config import RunConfig
from kdbench.harness.files.records import ModelRef


def model_facts(config: RunConfig, card: ModelRef | None) -> dict[str, Any]:
    """The part of an evaluation's record that is alike for all tasks of a model."""
    generate, data = config.generate, config.data
    return {
        "template_date": data.template_date,
        "template_arguments": data.template_arguments,
        "begin_token": data.begin_token,
        "model": card.fingerprint if card else "truth",
        "tokenizer": card.tokenizer if card else "truth",
        "dtype": config.answer_precision,
        "limit": config.tasks.limit,
        "engine": generate.engine if card else "own",
        "batch_size": generate.batch_size,
        "chunk": generate.chunk,
    }
