"""The line that says whose settings a suite's are, where they meet models or data of one's own."""

from kdbench.harness.config import RunConfig
from kdbench.harness.data.sources import split_names
from kdbench.harness.errors import InputError
from kdbench.harness.own.settings import OWN
from kdbench.harness.own.suite import WORLDS
from kdbench.harness.resolve import load_suite


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


def _foreign_model(name: str) -> bool:
    """Whether a model is neither the generated world's nor made of the teacher's layers."""
    return name.partition(":")[0] not in (*WORLDS, "prune")
