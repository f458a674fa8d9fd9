"""Prompts of a task of ours, without a run around them."""

from pathlib import Path

from kdbench.harness.data.tokens import TokenizerLike
from kdbench.harness.questions import PreparedTask, prepared
from kdbench.tasks.catalogue import join_edition, task_examples
from kdbench.tasks.protocols import Protocol


def prepare_task(
    task: str,
    edition: str,
    *,
    protocol: Protocol,
    tokenizer: TokenizerLike,
    template: str,
    limit: int | None = None,
    data_dir: Path | None = None,
) -> PreparedTask:
    """The test rows of a task as an evaluation asks them."""
    return prepared(
        task_examples(task, edition, limit=limit, data_dir=data_dir),
        task=task,
        edition=join_edition(edition, limit),
        protocol=protocol,
        tokenizer=tokenizer,
        template=template,
    )
