"""The line that says whose settings a suite's are, where they meet models or data of one's own."""

import json
from pathlib import Path

from kdbench.harness.config import RunConfig, file_task
from kdbench.harness.data.sources import split_names
from kdbench.harness.errors import InputError
from kdbench.harness.own.settings import OWN
from kdbench.harness.own.suite import WORLDS
from kdbench.harness.resolve import load_suite
from kdbench.tasks.mini.tokenizer import vocabulary

OF_SUITE = ("teacher", "init", "truth")
"""Models that ``kdbench eval --model`` takes from the suite."""


def foreign_note(config: RunConfig) -> str:
    """What a suite's settings were made for, where a run has other models or data; else nothing.

    Suites in files are their owners', and suite ``own`` chooses for what it is given.
    """
    if config.suite == OWN:
        return ""
    try:
        suite = load_suite(config.suite)
    except InputError:
        return ""
    pair, data = suite.get("pair") or {}, suite.get("data") or {}
    yours = [
        f"{role} {name}"
        for role, name in (("teacher", config.pair.teacher), ("student", config.pair.student))
        if name != pair.get(role) and _foreign_model(name)
    ]
    train = config.data.train
    if train != data.get("train") and train not in WORLDS and not split_names(train):
        yours.append(f"data {train}")
    if not yours:
        return ""
    kept = [f"template {config.pair.template}", f"rate {config.train.lr:g}"]
    kept.append(f"at most {config.train.max_length} tokens")
    kept += [f"dev rows of {config.data.dev}"] if config.data.dev == data.get("dev") else []
    kept += [f"text of {config.data.text}"] if config.data.text else []
    return (
        f"suite {config.suite} was made for {pair.get('teacher')} and {data.get('train')}; of it stay "
        f"{', '.join(kept)}, whatever {' and '.join(yours)} would need; --suite own chooses by your "
        "models and data"
    )


def refuse_guessed(config: RunConfig, model: str) -> None:
    """Refuses rows of a user's for a user's model where nothing says how they are asked.

    Called where no suite was named: the default's template and lengths are the generated world's.

    Raises:
        InputError: such a model, such rows and no template.
    """
    files = [name for name in config.tasks.names if file_task(name)]
    if not files or config.tasks.template is not None or _of_world(model):
        return
    raise InputError(
        f"nothing says how {model} is asked: without --suite it would be as the generated world asks "
        f"(template {config.task_template}, prompts of at most {config.train.max_prompt} tokens); name "
        "another suite and a template, as in --suite smollm2 --template chat (alpaca or none for models "
        "without a chat template)"
    )


def evaluated_note(config: RunConfig, model: str) -> str:
    """How a user's model is asked by a suite of the generated world; else nothing."""
    if config.tasks.edition == "full" or _of_world(model):
        return ""
    return (
        f"suite {config.suite} was made for the generated world; {model} is asked by its settings: template "
        f"{config.task_template}, prompts of at most {config.train.max_prompt} tokens, answers of at most "
        f"{config.generate.max_new_tokens}"
    )


def _of_world(model: str) -> bool:
    """Whether a model that is evaluated is of the generated world: by its name, or by its words, which
    come without a chat template.
    """
    if model in OF_SUITE or not _foreign_model(model):
        return True
    folder = Path(model)
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        chat = "chat_template" in (folder / "tokenizer_config.json").read_text(encoding="utf-8")
        chat = chat or (folder / "chat_template.jinja").is_file()
        return bool(tokenizer["model"]["vocab"] == vocabulary()) and not chat
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _foreign_model(name: str) -> bool:
    """Whether a model is neither the generated world's nor made of the teacher's layers."""
    return name.partition(":")[0] not in (*WORLDS, "prune")
