"""Whether the prompts of tasks have room, counted before anything is trained for them."""

from pathlib import Path
from typing import Any

from kdbench.harness.config import RunConfig
from kdbench.harness.data.templates import render
from kdbench.harness.data.tokens import opening, tokenise_prompts
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.evaluate import examples_of, protocol_of
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.files.store import Say


def check_lengths(config: RunConfig, data_dir: Path | None, tokenizer: Any, say: Say) -> None:
    """Counts the prompts of tasks that are answered: after the training their room is settled.

    ``say`` is told of prompts that are left out or cut.

    Raises:
        InputError: a task of which no prompt is left, or that the template cannot write.
    """
    form, most = config.task_format, config.train.max_prompt
    for task in tasks_of(config.tasks):
        if not task.in_words:
            continue
        prompts = [render(row, form, tokenizer) for row in examples_of(task, config, data_dir)]
        rule, begin = protocol_of(config).evaluation_rule, opening(tokenizer, form)
        try:
            _, counts = tokenise_prompts(prompts, tokenizer, rule, begin)
        except InputError as error:
            raise InputError(f"task {task.name}: {error}") from error
        for number, what in ((counts.dropped, "left out"), (counts.prompts_cut, f"cut to {most}")):
            if number:
                say(
                    f"{task.name}: {number:,} of {counts.rows:,} prompts will be {what}, with over {most} "
                    "tokens (train.max_prompt)"
                )
