"""``kdbench capture``: what a teacher gives at training rows, on disk before anybody trains with it."""

import json
from dataclasses import asdict
from typing import Any

import typer

from kdbench.harness.api.calls import command_line, quoted
from kdbench.harness.verbs import options
from kdbench.trainers.store.settings import inexact


def capture(
    *,
    method: options.MethodName = "fkd",
    suite: options.Suite = "mini",
    pair: options.Pair,
    set_: options.Set = None,
    work: options.Workplace,
) -> None:
    """Store what a teacher gives at the training rows, for runs with teacher.store=hidden.

    Sizes are said before it begins. The same command continues one that was interrupted; runs and studies
    with the same teacher, data and precision share the store, and need no teacher in memory.
    """
    options.calm_libraries()
    from kdbench.harness.resolve import resolve
    from kdbench.harness.runner.capturing import capture_command

    config = resolve(suite=suite, method=method, assignments=set_ or (), flags=pair.settings())
    found = capture_command(work.request(config))
    if not found.pop("is_main"):
        return
    if work.json_output:
        typer.echo(json.dumps(found))
        return
    word = (
        "exact" if found["exact"] else f"{inexact(found['kind'])}: runs that read it are other runs"
    )
    size = f"{found['bytes'] / 2**20:,.1f} MiB"
    typer.echo(f"{found['rows']:,} rows, {found['positions']:,} positions, {size} ({word})")
    for folder in found["folders"]:
        typer.echo(f"store: {folder}")
    flags: dict[str, Any] = {"--method": method, "--suite": suite}
    flags |= {f"--{name}": value for name, value in asdict(pair).items()}
    for name in ("runs_dir", "data_dir", "device"):
        if (value := getattr(work, name)) != getattr(options.Workplace, name):
            flags[f"--{name.replace('_', '-')}"] = value
    settings = list(set_ or ())
    if not any(setting.startswith("teacher.store=") for setting in settings):
        settings.append(f"teacher.store={found['kind']}")
    typer.echo(f"next: {quoted(command_line('run', flags, settings))}")
