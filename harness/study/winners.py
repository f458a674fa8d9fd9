"""The winners of a search as a suite's ``methods`` section."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.harness.config import RunConfig
from kdbench.harness.resolve import changes_of, merge
from kdbench.harness.study.tuning import Trial

SECTIONS = ("train", "method")
"""What a suite says by method."""
SEEDS = ("seed", "init_seed")
"""Not what was found, but which of its trainings."""


def winners_yaml(
    command: str,
    settings: Sequence[str],
    winners: Sequence[Trial],
    configs: Mapping[str, RunConfig],
    found: Mapping[str, Mapping[str, Any]],
) -> str:
    """All that was set for each winner: by the command for every trial, and by the trial itself.

    Args:
        command: what found them.
        settings: ``--set`` of the command; of other sections than a method's own the header alone tells.
        winners: one a method.
        configs: a run of each method as the suite says, by the name or the file that it was asked by.
        found: what is said of each method's search.
    """
    import yaml

    methods: dict[str, Any] = {}
    for trial in winners:
        of_all, own = changes_of(settings, {}), changes_of(trial.settings, {})
        section = {}
        for name in SECTIONS:
            fields = merge(of_all.get(name) or {}, own.get(name) or {})
            if kept := {key: value for key, value in fields.items() if key not in SEEDS}:
                section[name] = kept
        methods[configs[trial.method].method.name] = section | {"tuning": dict(found[trial.method])}
    text = yaml.safe_dump({"methods": methods}, sort_keys=False, allow_unicode=True)
    others = [s for s in settings if s.partition(".")[0] not in (*SECTIONS, "tuning")]
    more = f"# It also set, which no method has of its own: {' '.join(others)}\n" if others else ""
    return f"# Found by: {command}\n{more}{text}"
